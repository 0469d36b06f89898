"""Django's settings, twelve-factor: everything that differs between deployments is a variable.

Without any variable this is the embedded platform of `make run`: SQLite, secrets made once into
var/, mail printed in the terminal. With PRODUCTION=1 nothing is made up: what is missing is
reported, all of it, in one go.
"""

import zlib
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_email_url
import django_stubs_ext
from corsheaders.defaults import default_headers
from django.utils.csp import CSP
from environs import validate

from config.environment import Environment, host, in_brackets, lines, made_once, origin, site
from oauth import origins

# Django's generic classes can't be subscripted at run time; the type checker wants them to be.
django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parents[2]

env = Environment()

PRODUCTION: bool = env.bool("PRODUCTION", default=False)
DEBUG: bool = env.bool("DEBUG", default=False)
if PRODUCTION and DEBUG:
    env.fault("DEBUG", "must be off when PRODUCTION is on.")

# Where the embedded platform keeps its database, secrets and certificates.
VAR: Path = env.path("VAR_DIR", default=BASE_DIR / "var")

# --- Secrets ---------------------------------------------------------------------------------


def secret(name: str) -> str:
    if PRODUCTION or env.str(name, default=None):
        value: str = env.str(name) or ""
        if value and len(value) < 32:
            env.fault(name, "must be at least 32 characters of random text.")
        return value
    return made_once(VAR / name.lower())


SECRET_KEY = secret("SECRET_KEY")
SECRET_KEY_FALLBACKS: list[str] = env.list("SECRET_KEY_FALLBACKS", default=[])
# The pepper of the keys' hashes, and what their tags are made with (docs/security.md).
KEY_PEPPER = secret("KEY_PEPPER")
KEY_PEPPER_FALLBACKS: list[str] = env.list("KEY_PEPPER_FALLBACKS", default=[])
# Made here, and changed here (`manage.py rotate_pepper`): the former ones lie beside it.
KEY_PEPPER_IN_VAR: bool = not PRODUCTION and not env.str("KEY_PEPPER", default=None)
if KEY_PEPPER_IN_VAR:
    KEY_PEPPER_FALLBACKS = [*KEY_PEPPER_FALLBACKS, *lines(VAR / "key_pepper_fallbacks")]
# What services present that ask about other people's keys; several while one takes the place of
# another. None: such questions are not answered.
SERVICE_SECRETS: list[str] = env.list("SERVICE_SECRETS", default=[])
if any(len(known) < 32 for known in SERVICE_SECRETS):
    env.fault("SERVICE_SECRETS", "must each be at least 32 characters of random text.")

# --- Addresses -------------------------------------------------------------------------------

HOST: str = env.str("HOST", default="127.0.0.1")
PORT: int = env.int("PORT", default=8000, validate=validate.Range(1, 65535)) or 8000
TLS: bool = env.bool("TLS", default=False)
TLS_CERT: Path | None = env.path("TLS_CERT", default=None)
TLS_KEY: Path | None = env.path("TLS_KEY", default=None)
if bool(TLS_CERT) != bool(TLS_KEY):
    env.fault("TLS_CERT", "and TLS_KEY go together: set both or neither.")
TLS = TLS or TLS_CERT is not None

WORKERS: int = env.int("WORKERS", default=2, validate=validate.Range(1, 256))

LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_scheme = "https" if TLS else "http"
PUBLIC_URL: str = (
    env.str("PUBLIC_URL")
    if PRODUCTION
    else env.str("PUBLIC_URL", default=f"{_scheme}://127.0.0.1:{PORT}")
) or "http://missing.invalid"
PUBLIC_URL = PUBLIC_URL.rstrip("/")
try:
    _scheme, PUBLIC_HOST, _port = origin(PUBLIC_URL)
except ValueError as error:
    env.fault("PUBLIC_URL", str(error))
    PUBLIC_HOST, _port = "missing.invalid", None
if TLS and _scheme != "https":
    env.fault("PUBLIC_URL", "must begin with https:// when TLS is on.")

HTTPS = _scheme == "https"
_is_loopback = PUBLIC_HOST in LOOPBACK
# Keys, passwords and sessions cross a network that others are on.
IN_THE_CLEAR = not HTTPS and not _is_loopback
# Other names of this machine, as in a studio that has no name server.
OTHER_HOSTS: list[str] = []
for _given in (env.str("ALLOWED_HOSTS", default="") or "").replace(",", " ").split():
    try:
        OTHER_HOSTS.append(host(_given))
    except ValueError as error:
        env.fault("ALLOWED_HOSTS", f"has {_given!r}, which {error}")
ALLOWED_HOSTS = [
    *(["127.0.0.1", "localhost", "[::1]"] if _is_loopback else [in_brackets(PUBLIC_HOST)]),
    *map(in_brackets, OTHER_HOSTS),
]
# Behind a proxy that ends TLS, Django sees http where the browser's Origin says https.
CSRF_TRUSTED_ORIGINS = [
    PUBLIC_URL,
    *(f"{_scheme}://{in_brackets(_name)}{f':{_port}' if _port else ''}" for _name in OTHER_HOSTS),
]
TRUSTED_PROXIES: list[str] = env.list("TRUSTED_PROXIES", default=[])
# The first sites that may sign people in with their session here; from then on staff list them.
SITE_WHITELIST: list[str] = []
for _given in (env.str("SITE_WHITELIST", default="") or "").replace(",", " ").split():
    try:
        SITE_WHITELIST.append(origins.to_list(_given))
    except origins.Refused as refused:
        if refused.why is not origins.Why.LOOPBACK:
            env.fault("SITE_WHITELIST", f"has {_given!r}, which is {refused.why}.")

# --- Applications ----------------------------------------------------------------------------

INSTALLED_APPS = [
    "config.apps.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django.forms",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.usersessions",
    # In the place of allauth's own.
    "accounts.github",
    "accounts.google",
    "corsheaders",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "rest_framework",
    # Last, so that they can put right what the others registered with the admin.
    "accounts",
    "apikeys",
    "audit",
    "backups",
    "oauth",
    "outbox",
    # After all whose permissions its roles have.
    "staff",
]

MIDDLEWARE = [
    # What every answer says to a browser, whoever gave it: files and errors, too.
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.csp.ContentSecurityPolicyMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "config.middleware.keep_to_ourselves",
    "config.middleware.store_no_pages",
    "config.middleware.say_no_length_of_nothing",
    # Above everything that can answer with an error: ComfyUI's page must be able to read those.
    "corsheaders.middleware.CorsMiddleware",
    "config.middleware.answer_probes",
    "config.transport.refuse_plain_http",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "config.middleware.refuse_keys_in_addresses",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "accounts.lifetimes.end_in_time",
    "config.middleware.speak_their_language",
    "django.contrib.messages.middleware.MessageMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "accounts.devices.note_activity",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
# A client that posts to a path with one slash too few must get an answer, never a redirect: a
# redirected POST loses its body, and comfy-cli follows none.
APPEND_SLASH = False

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "django.template.context_processors.csp",
                "config.context.platform",
            ],
        },
    },
]
FORM_RENDERER = "config.forms.Renderer"

# --- Stores ----------------------------------------------------------------------------------

DATABASES: dict[str, dict[str, Any]] = {
    "default": (
        env.dj_db_url("DATABASE_URL")
        if PRODUCTION
        else env.dj_db_url("DATABASE_URL", default=f"sqlite:///{VAR / 'platform.sqlite3'}")
    )
    # Only while faults are being gathered: Django must have something to look at.
    or {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
}
_database = DATABASES["default"]
_options = _database.setdefault("OPTIONS", {})
if _database["ENGINE"].endswith("sqlite3"):
    _database["CONN_MAX_AGE"] = None
    _options.update(
        # Readers go on while somebody writes; a writer waits its turn instead of failing at once.
        init_command="PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        transaction_mode="IMMEDIATE",
        timeout=5,
    )
elif _database["ENGINE"].endswith("postgresql"):
    from config import pool

    _options.setdefault("connect_timeout", 3)
    # A request waits this long for a connection, in seconds, and is then told to come back.
    _options["pool"] = {
        # After the server restarted, connections from before are found out, not handed on.
        "check": pool.check,
        # One on which nothing is waited for past STORE_WAIT.
        "connection_class": pool.Connection,
        "min_size": 1,
        "max_size": 16,
        "timeout": 4,
        # Past this the pool stops trying by itself, and the next request tries at once: its own
        # tries grow rarer and rarer, and would go on sleeping while the server is back.
        "reconnect_timeout": 1,
    }
    # A statement that comes again and again is planned once for a connection: planning takes
    # PostgreSQL longer than one row by an index.
    if env.bool("PREPARED_STATEMENTS", default=True):
        _options.setdefault("server_side_binding", True)
        _options.setdefault("prepare_threshold", 5)
    # Behind a lock, too, a request is told to come back. In milliseconds. And a machine that is
    # cut off in the middle of a transaction, as of writing uses, must not hold its locks until the
    # server finds out that it is gone: its keys could not be deleted for two hours.
    _options.setdefault(
        "options", "-c lock_timeout=4000 -c idle_in_transaction_session_timeout=10000"
    )
    # Nor does a request wait on a connection that the network swallows longer than for a lock.
    _options.setdefault("tcp_user_timeout", 4000)
# Seconds that a request waits for one answer of PostgreSQL; a little more than for a lock.
STORE_WAIT: float = env.float("STORE_WAIT", default=5.0)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CACHE_URL: str | None = env.str("CACHE_URL", default=None)
if CACHE_URL and not CACHE_URL.startswith(("redis://", "rediss://", "unix://")):
    env.fault("CACHE_URL", "must look like redis://127.0.0.1:6379/0 (Redis or Valkey).")
CACHES: dict[str, dict[str, Any]] = {
    # Rate limits must go on when the shared cache does not answer.
    "default": {"BACKEND": "config.cache.SteadyCache", "LOCATION": "shared"},
    "shared": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": CACHE_URL,
        "KEY_PREFIX": "comfyui-keys",
        "OPTIONS": {
            # Seconds. A store that hangs must not take the requests along.
            "socket_timeout": 1.0,
            "socket_connect_timeout": 1.0,
            "serializer": "config.cache.JSON",
        },
    }
    if CACHE_URL
    else {
        # Shared by every process, as rate limits must be, and there without another server.
        "BACKEND": "config.cache.TableCache",
        "LOCATION": "cache",
        "OPTIONS": {"MAX_ENTRIES": 100_000},
    },
}

# --- People ----------------------------------------------------------------------------------

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
PASSWORD_HASHERS = [
    "accounts.hashers.PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
_validation = "django.contrib.auth.password_validation"
AUTH_PASSWORD_VALIDATORS = [
    {
        "NAME": f"{_validation}.UserAttributeSimilarityValidator",
        "OPTIONS": {"user_attributes": ["email", "name"]},
    },
    {"NAME": f"{_validation}.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": f"{_validation}.CommonPasswordValidator"},
    {"NAME": "accounts.passwords.CommonInDisguiseValidator"},
    {"NAME": "accounts.passwords.WordsOfThisPlaceValidator"},
]

LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "keys"
ACCOUNT_LOGOUT_REDIRECT_URL = "account_login"
ACCOUNT_ADAPTER = "accounts.adapters.AccountAdapter"
ACCOUNT_FORMS = {
    "login": "accounts.forms.LoginForm",
    "signup": "accounts.forms.SignupForm",
    "change_password": "accounts.forms.ChangePasswordForm",
    "set_password": "accounts.forms.SetPasswordForm",
    "reset_password": "accounts.forms.ResetPasswordForm",
    "reset_password_from_key": "accounts.forms.ResetPasswordKeyForm",
    "request_login_code": "accounts.forms.RequestLoginCodeForm",
    "add_email": "accounts.forms.AddEmailForm",
}
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_CHANGE_EMAIL = True
ACCOUNT_EMAIL_NOTIFICATIONS = True
ACCOUNT_PREVENT_ENUMERATION = True
ACCOUNT_REAUTHENTICATION_REQUIRED = True
# A mailed code is the third way: accounts.views.reauthenticate_by_mail.
ACCOUNT_REAUTHENTICATION_METHODS = ["password", "mfa"]
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""
ACCOUNT_USER_DISPLAY = "accounts.services.display_name"
ACCOUNT_LOGIN_BY_CODE_ENABLED = True
ACCOUNT_LOGIN_BY_CODE_SUPPORTS_RESEND = True
ACCOUNT_RATE_LIMITS = {
    # Codes asked for by one who is signed in.
    "mail_code": "6/h/user",
    "mail_code_try": "3/15m/key",
    # Codes and passkeys as second factors. With allauth's own, which counts them among failed
    # log-ins, a right one would wipe out the count of an address's wrong passwords.
    "factor": "5/5m/key",
    # allauth's own "1/10s" refuses whoever logs in right after they signed up, in words about wrong
    # passwords.
    "confirm_email": "5/10m/key",
    # Machines that begin to wait for a key; and codes typed for one that is not there.
    "device_code": "30/h/ip",
    "device_try": "10/10m/user,30/10m/ip",
    # Keys of others that somebody found.
    "leak_report": "20/h/ip",
}
# How long nobody is asked again who they are, before what hurts; and before a new key.
REAUTHENTICATION_GRACE = timedelta(minutes=10)
LONG_SESSION = timedelta(hours=12)
# A session ends so long after the last visit, and so long after its sign-in; the staff pages ask
# again, sooner (docs/asvs.md).
SESSION_IDLE = timedelta(days=14)
SESSION_LIFETIME = timedelta(days=30)
STAFF_IDLE = timedelta(minutes=30)
STAFF_LIFETIME = timedelta(hours=12)
SESSION_COOKIE_AGE = int(SESSION_LIFETIME.total_seconds())
# What goes by mail may be used by whoever reads it: a code for minutes, a link for an hour.
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_TIMEOUT = int(timedelta(minutes=10).total_seconds())
PASSWORD_RESET_TIMEOUT = int(timedelta(hours=1).total_seconds())

SOCIALACCOUNT_ADAPTER = "accounts.social.SocialAccountAdapter"
SOCIALACCOUNT_FORMS = {"disconnect": "accounts.social.DisconnectForm"}
SOCIALACCOUNT_LOGIN_ON_GET = False
SOCIALACCOUNT_EMAIL_AUTHENTICATION = False
SOCIALACCOUNT_STORE_TOKENS = False
SOCIALACCOUNT_QUERY_EMAIL = True
# Seconds that a provider has to answer.
SOCIALACCOUNT_REQUESTS_TIMEOUT = 5


def provider_client(name: str) -> list[dict[str, str]]:
    """The client that is registered with a provider, if the environment names one."""
    client_id = env.str(f"{name}_CLIENT_ID", default=None)
    secret = env.str(f"{name}_CLIENT_SECRET", default=None)
    if bool(client_id) != bool(secret):
        env.fault(f"{name}_CLIENT_ID", f"and {name}_CLIENT_SECRET go together: set both or none.")
    return [{"client_id": client_id, "secret": secret}] if client_id and secret else []


# Google's addresses, for a server that speaks as Google does.
_google: dict[str, str | None] = {
    "AUTHORIZE_URL": env.str("GOOGLE_AUTHORIZE_URL", default=None),
    "ACCESS_TOKEN_URL": env.str("GOOGLE_TOKEN_URL", default=None),
    "IDENTITY_URL": env.str("GOOGLE_USERINFO_URL", default=None),
    "ID_TOKEN_ISSUER": env.str("GOOGLE_ISSUER", default=None),
}
# Another GitHub: GitHub Enterprise Server's address.
GITHUB_URL: str = (env.str("GITHUB_URL", default="https://github.com") or "").rstrip("/")
SOCIALACCOUNT_PROVIDERS: dict[str, dict[str, Any]] = {
    "google": {
        "APPS": provider_client("GOOGLE"),
        "OAUTH_PKCE_ENABLED": True,
        "SCOPE": ["openid", "profile", "email"],
        **{name: url for name, url in _google.items() if url},
    },
    "github": {
        "APPS": provider_client("GITHUB"),
        "OAUTH_PKCE_ENABLED": True,
        "SCOPE": ["user:email"],
        # Named only where it is not GitHub's own: the addresses below it differ there.
        **({"GITHUB_URL": GITHUB_URL} if GITHUB_URL != "https://github.com" else {}),
    },
}

MFA_ADAPTER = "accounts.factors.MFAAdapter"
MFA_FORMS = {
    "authenticate": "accounts.factorforms.AuthenticateForm",
    "reauthenticate": "accounts.factorforms.ReauthenticateForm",
    "activate_totp": "accounts.factorforms.ActivateTOTPForm",
    "authenticate_webauthn": "accounts.factorforms.AuthenticateWebAuthnForm",
    "login_webauthn": "accounts.factorforms.LoginWebAuthnForm",
    "reauthenticate_webauthn": "accounts.factorforms.ReauthenticateWebAuthnForm",
    "add_webauthn": "accounts.factorforms.AddWebAuthnForm",
    "signup_webauthn": "accounts.factorforms.SignupWebAuthnForm",
    "edit_webauthn": "accounts.factorforms.EditWebAuthnForm",
}
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_RECOVERY_CODES_SHOW_ONCE = True
# A code is good a step (30 s) longer: clocks differ, and people type slowly.
MFA_TOTP_TOLERANCE = 1
# Staff show a second factor before the staff pages open.
STAFF_SECOND_FACTOR: bool = env.bool("STAFF_SECOND_FACTOR", default=PRODUCTION)

# --- Mail ------------------------------------------------------------------------------------

# Without a mail server an address can't be proved, so nobody is kept waiting for it.
HAS_MAIL_SERVER: bool = PRODUCTION or env.str("EMAIL_URL", default=None) is not None
ACCOUNT_EMAIL_VERIFICATION = "mandatory" if HAS_MAIL_SERVER else "optional"
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = HAS_MAIL_SERVER
ACCOUNT_EMAIL_VERIFICATION_SUPPORTS_RESEND = HAS_MAIL_SERVER
# With a passkey alone there is no password to fall back on: the address has to be proved first.
MFA_PASSKEY_SIGNUP_ENABLED = HAS_MAIL_SERVER
# Where addresses can be proved, only whoever did locks an account with a factor.
MFA_ALLOW_UNVERIFIED_EMAIL = not HAS_MAIL_SERVER

MAILERS: dict[str, dict[str, Any]] = {"default": {"BACKEND": "config.mail.TerminalBackend"}}
if HAS_MAIL_SERVER:
    _url: str = env.str("EMAIL_URL") or ""
    # The library takes any scheme for a mail server, and would send without TLS for smtp+tls.
    _is_smtp = _url.startswith(("smtp://", "submission://"))
    _mail: dict[str, Any] = dj_email_url.parse(_url) if _is_smtp else {}
    if _url and not _mail.get("EMAIL_HOST"):
        env.fault(
            "EMAIL_URL",
            "must look like submission://user:password@mail.example.org (STARTTLS, port 587) "
            "or smtp://user:password@mail.example.org:465?ssl=on.",
        )
    # Written down first; a thread hands it to the server.
    MAILERS["default"] = {"BACKEND": "outbox.backend.OutboxBackend"}
    MAILERS["server"] = {
        "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "OPTIONS": {
            "host": _mail.get("EMAIL_HOST"),
            "port": _mail.get("EMAIL_PORT"),
            "username": _mail.get("EMAIL_HOST_USER") or "",
            "password": _mail.get("EMAIL_HOST_PASSWORD") or "",
            "use_tls": _mail.get("EMAIL_USE_TLS", False),
            "use_ssl": _mail.get("EMAIL_USE_SSL", False),
            # Seconds.
            "timeout": 10,
        },
    }
DEFAULT_FROM_EMAIL: str = env.str(
    "DEFAULT_FROM_EMAIL", default=f"ComfyUI keys <no-reply@{PUBLIC_HOST}>"
)
SERVER_EMAIL = DEFAULT_FROM_EMAIL

# --- Keys ------------------------------------------------------------------------------------

KEYS_PER_ACCOUNT: int = env.int("KEYS_PER_ACCOUNT", default=50)
# How many an account may make in an hour, and how many keys that are none of ours an address may
# present in a minute; 0 for no limit. Behind a gateway without TRUSTED_PROXIES, all have its
# address.
NEW_KEYS_PER_HOUR: int = env.int("NEW_KEYS_PER_HOUR", default=100)
GUESSES_PER_MINUTE: int = env.int("GUESSES_PER_MINUTE", default=300)
# Off, so that a leaked key can't breed.
KEYS_MAY_CREATE_KEYS: bool = env.bool("KEYS_MAY_CREATE_KEYS", default=False)
# What becomes of a key that somebody found in public: "revoke", or "suspend" for staff to look at.
LEAKED_KEYS: str = env.str(
    "LEAKED_KEYS", default="revoke", validate=validate.OneOf(["revoke", "suspend"])
)
# Reports of GitHub's secret scanning. A platform on one's own machine is not one that GitHub finds.
GITHUB_LEAK_REPORTS: bool = env.bool("GITHUB_LEAK_REPORTS", default=PRODUCTION)
GITHUB_SECRET_SCANNING_KEYS_URL: str = (
    env.str(
        "GITHUB_SECRET_SCANNING_KEYS_URL",
        default="https://api.github.com/meta/public_keys/secret_scanning",
    )
    or ""
)
# Whoever can answer in GitHub's place can end keys.
_asked = urlsplit(GITHUB_SECRET_SCANNING_KEYS_URL)
if _asked.scheme != "https" and (_asked.scheme != "http" or _asked.hostname not in LOOPBACK):
    env.fault("GITHUB_SECRET_SCANNING_KEYS_URL", "must begin with https://.")
# Whom to tell of a weakness of this platform (/.well-known/security.txt); nobody: there is none.
SECURITY_CONTACT: list[str] = []
for _given in (env.str("SECURITY_CONTACT", default="") or "").replace(",", " ").split():
    _contact = _given if ":" in _given else f"mailto:{_given}"
    if _contact.startswith(("https://", "tel:")) or (
        _contact.startswith("mailto:") and "@" in _contact
    ):
        SECURITY_CONTACT.append(_contact)
    else:
        env.fault(
            "SECURITY_CONTACT",
            f"has {_given!r}: it must be a mail address, or begin with https:// or tel:.",
        )

# Argon2id at the OWASP minimum: memory in KiB, passes, lanes. The secret is random, so this cost
# is depth of defence, not the defence.
ARGON2_MEMORY_KIB: int = env.int("ARGON2_MEMORY_KIB", default=19456)
ARGON2_PASSES: int = env.int("ARGON2_PASSES", default=2)
ARGON2_LANES: int = env.int("ARGON2_LANES", default=1)
# How many passes may run at once in a process, so that memory is bounded whatever the load, and
# how long a caller waits in line, in seconds, before it is told to come back.
ARGON2_CONCURRENCY: int = env.int("ARGON2_CONCURRENCY", default=2)
ARGON2_WAIT: float = env.float("ARGON2_WAIT", default=2.0)
# ComfyUI forgets a person's key at any failure of POST /customers: there we wait far longer, both
# in Argon2's line and for a store that does not answer. In seconds.
ARGON2_PATIENT_WAIT: float = env.float("ARGON2_PATIENT_WAIT", default=20.0)
STORE_PATIENT_WAIT: float = env.float("STORE_PATIENT_WAIT", default=8.0)
# How many keys' proofs a process remembers, so that Argon2 runs once a key and not once a call.
PROOFS_REMEMBERED: int = env.int("PROOFS_REMEMBERED", default=10_000)
# Where the workers share what they have proved: in memory that outlives them. None: each proves
# for itself.
_shm = Path("/dev/shm")  # noqa: S108 (its file is opened with care for whose it is)
SHARED_PROOFS_FOLDER: Path | None = env.path(
    "SHARED_PROOFS_FOLDER", default=_shm if _shm.is_dir() else None
)
# Validations are answered in front of Django while nothing can have changed (docs/adr/0012).
FAST_LANE: bool = env.bool("FAST_LANE", default=True)
# How many verdicts a process remembers at most; the latest half of them for certain. At some 1,200
# bytes each, 120 MB when it is full, and 280 MB where each key is asked about in four ways
# (`make bench-verdicts`).
FAST_LANE_VERDICTS: int = env.int("FAST_LANE_VERDICTS", default=100_000)
# Seconds after which a machine that does not hear the others stops trusting what it knows.
FLEET_BOUND: float = env.float("FLEET_BOUND", default=2.0)
# Where a machine listens for the others if DATABASE_URL leads to a pooler, which has no LISTEN.
LISTEN_DATABASE_URL: str | None = env.str("LISTEN_DATABASE_URL", default=None)
# PostgreSQL is shared by machines; SQLite by the processes of one.
IS_FLEET: bool = _database["ENGINE"].endswith("postgresql")
_which = zlib.crc32(
    repr(
        [_database.get("HOST"), _database.get("PORT"), _database["NAME"], _options.get("host")]
    ).encode()
)
# Beside a database file, so that whoever finds the one finds the other.
EPOCHS_FILE: Path = (
    Path(f"{Path(_database['NAME']).resolve()}.epochs")
    if _database["ENGINE"].endswith("sqlite3") and _database["NAME"] != ":memory:"
    # Of this database alone: who listens to one says nothing of another's changes.
    else VAR / f"epochs-{_which:08x}"
)
# Which keys and accounts have ended, for the day on which a backup from before is restored. Best on
# another disk than the database (docs/runbook.md).
TOMBSTONES_FILE: Path | None = env.path("TOMBSTONES_FILE", default=VAR / "tombstones")
# Uses are counted in memory and written this often, in seconds.
USAGE_FLUSH_INTERVAL: float = env.float("USAGE_FLUSH_INTERVAL", default=5.0)

# --- REST ------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": [],
    "DEFAULT_PARSER_CLASSES": ["apikeys.api.parsers.BoundedJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "apikeys.api.errors.exception_handler",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "ComfyUI key platform",
    "DESCRIPTION": "Signs ComfyUI in with a key, and tells services whose key it is.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PUBLIC": True,
    "SCHEMA_PATH_PREFIX": "",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "persistAuthorization": False},
    "ENUM_NAME_OVERRIDES": {"VerdictCode": "apikeys.services.Code"},
    "TAGS": [
        {"name": "ComfyUI", "description": "What an unmodified ComfyUI calls."},
        {"name": "Keys", "description": "A person's keys."},
        {"name": "Validation", "description": "What a service in front of ComfyUI asks."},
        {"name": "Leaks", "description": "Keys that were found where others can read them."},
        {"name": "OAuth", "description": "A key without copying one, for machines and sites."},
        {"name": "Probes", "description": "For load balancers and monitors."},
    ],
}

# ComfyUI's pages call us from whatever origin they are served on, always with a key and never
# with cookies: any origin, no credentials.
CORS_ALLOW_ALL_ORIGINS = True
CORS_ALLOW_CREDENTIALS = False
CORS_URLS_REGEX = r"^/(customers|api|proxy|releases|health|ready|\.well-known)(/|$)"
CORS_ALLOW_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
CORS_ALLOW_HEADERS = [
    *default_headers,
    "comfy-core-version",
    "comfy-env",
    "comfy-job-id",
    "comfy-usage-source",
    "x-api-key",
    "x-comfy-client",
    "x-comfy-workspace-id",
    "x-csrf-token",
]
CORS_EXPOSE_HEADERS = ["Retry-After"]
CORS_PREFLIGHT_MAX_AGE = 7200

# --- Browsers --------------------------------------------------------------------------------

SECURE_CSP: dict[str, list[str]] = {
    "default-src": [CSP.NONE],
    # The tags that our own templates wrote into this very answer, and what they import: not every
    # file of ours, of which an old library's may one day be of use to somebody.
    "script-src": [CSP.NONCE],
    "style-src": [CSP.SELF],
    "img-src": [CSP.SELF, "data:"],
    "font-src": [CSP.SELF],
    "connect-src": [CSP.SELF],
    # A form that leads to a provider is sent to us first, and redirected there; by PUBLIC_URL, the
    # only address that a provider sends people back to.
    "form-action": [
        CSP.SELF,
        PUBLIC_URL,
        site(_google["AUTHORIZE_URL"] or "https://accounts.google.com"),
        site(GITHUB_URL),
    ],
    "frame-ancestors": [CSP.NONE],
    "base-uri": [CSP.NONE],
    # No text becomes markup or code, not even by our own scripts.
    "require-trusted-types-for": ["'script'"],
    "trusted-types": [CSP.NONE],
}
X_FRAME_OPTIONS = "DENY"
# Said of pages alone, by config.middleware.
SECURE_CROSS_ORIGIN_OPENER_POLICY = None
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
# Cookies know no ports: two platforms on one machine would log each other's people out. `__Host-`
# keeps sibling subdomains from planting them.
_suffix = f"_{_port}" if _port else ""
_prefix = "__Host-" if HTTPS else ""
SESSION_COOKIE_NAME = f"{_prefix}session{_suffix}"
CSRF_COOKIE_NAME = f"{_prefix}csrf{_suffix}"
CSRF_FAILURE_VIEW = "config.errors.csrf_failure"
# A browser remembers this of a name with all its ports: never say it for one's own machine, nor,
# unasked, for a name that a ComfyUI may share on another port, by http.
_hsts = timedelta(days=365) if PRODUCTION or not _port else timedelta()
SECURE_HSTS_SECONDS: int = (
    env.int("HSTS_SECONDS", default=int(_hsts.total_seconds()), validate=validate.Range(0)) or 0
)
if not HTTPS or _is_loopback:
    SECURE_HSTS_SECONDS = 0
# What lies below our own name. Off where that is a whole domain with sites of its own, by http.
SECURE_HSTS_INCLUDE_SUBDOMAINS: bool = env.bool("HSTS_SUBDOMAINS", default=PRODUCTION)
SILENCED_SYSTEM_CHECKS = [
    # HSTS for subdomains and preloading are the owner of the domain's decision, not ours.
    "security.W005",
    "security.W021",
    # SECURE_SSL_REDIRECT: an API path never redirects. A key sent in plain text has already
    # travelled; config.transport tells API calls from pages.
    "security.W008",
]
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"

# --- Static files ----------------------------------------------------------------------------

STATIC_URL = "/static/"
STATIC_ROOT = VAR / "static"
# By default any page may read them. Nobody's but ours has to.
WHITENOISE_ALLOW_ALL_ORIGINS = False
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}

# --- Language and time -----------------------------------------------------------------------

LANGUAGE_CODE = "en"
LANGUAGES = [
    ("en", "English"),
    ("zh-hans", "简体中文"),
    ("zh-hant", "繁體中文"),
    ("ja", "日本語"),
    ("ko", "한국어"),
]
LOCALE_PATHS = [BASE_DIR / "locale"]
LANGUAGE_COOKIE_NAME = f"{_prefix}language{_suffix}"
LANGUAGE_COOKIE_AGE = int(timedelta(days=400).total_seconds())
LANGUAGE_COOKIE_SAMESITE = "Lax"
LANGUAGE_COOKIE_HTTPONLY = True
LANGUAGE_COOKIE_SECURE = HTTPS
TIME_ZONE = "UTC"
USE_TZ = True

# --- What is written down --------------------------------------------------------------------

DEFAULT_EXCEPTION_REPORTER = "config.redaction.ExceptionReporter"
DEFAULT_EXCEPTION_REPORTER_FILTER = "config.redaction.ExceptionReporterFilter"
LOG_LEVEL: str = env.str("LOG_LEVEL", default="INFO").upper()
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "redacting": {
            "()": "config.redaction.Formatter",
            "format": "{asctime} {levelname} {name}: {message}",
            "style": "{",
        },
    },
    "handlers": {
        "terminal": {"class": "logging.StreamHandler", "formatter": "redacting"},
        # Without any handler Python prints what comes, as it is.
        "nowhere": {"class": "logging.NullHandler"},
    },
    "root": {"handlers": ["terminal"], "level": LOG_LEVEL},
    # Django's own handlers would write a second copy, unredacted.
    "loggers": {
        "django": {"handlers": [], "level": LOG_LEVEL, "propagate": True},
        # A line for each 401 and 404 would let anybody fill the disk.
        "django.request": {"level": "ERROR"},
        # At DEBUG it prints all that a page was made from: codes, addresses, forms.
        "django.template": {"level": "INFO"},
        "django.security.DisallowedHost": {"handlers": ["nowhere"], "propagate": False},
    },
}

env.report_faults()
