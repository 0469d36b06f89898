"""API keys: limits, the cost of their hashes, and reports of exposed keys."""

from datetime import timedelta
from urllib.parse import urlsplit

from config.settings.base import LOOPBACK, PRODUCTION, env

env.section("API keys")

KEYS_PER_ACCOUNT: int = env.integer(
    "KEYS_PER_ACCOUNT",
    default=50,
    least=1,
    most=1_000_000,
    help="Number of live keys that an account may have.",
)
# Why keys do not expire by default: docs/adr/0029-key-lifetimes.md.
KEY_LIFETIME_MAX: timedelta | None = env.days_or_never(
    "KEY_LIFETIME_MAX",
    most=36_500,
    help="Longest lifetime of a key. With a number of days, a new key can't live for longer, and "
    "`never` is no choice. Keys that were created before stay as they are.",
)
KEY_LIFETIME_DEFAULT: timedelta | None = env.days_or_never(
    "KEY_LIFETIME_DEFAULT",
    default=KEY_LIFETIME_MAX,
    default_help="`never`, or `KEY_LIFETIME_MAX`",
    most=36_500,
    help="Lifetime of a key whose creator chooses none, and the preset choice on pages.",
)
if KEY_LIFETIME_MAX is not None and (
    KEY_LIFETIME_DEFAULT is None or KEY_LIFETIME_DEFAULT > KEY_LIFETIME_MAX
):
    env.add_error(
        "KEY_LIFETIME_DEFAULT",
        f"must be at most KEY_LIFETIME_MAX, which is {KEY_LIFETIME_MAX.days} days.",
    )
NEW_KEYS_PER_HOUR: int = env.integer(
    "NEW_KEYS_PER_HOUR",
    default=100,
    least=0,
    most=10**9,
    help="[Rate limit](security.md#limits) of new keys per account; 0 for none.",
)
GUESSES_PER_MINUTE: int = env.integer(
    "GUESSES_PER_MINUTE",
    default=300,
    least=0,
    most=10**9,
    help="Rate limit of requests with invalid keys per client network; 0 for none. Without "
    "`TRUSTED_PROXIES`, all clients of a gateway have the gateway's IP.",
)
# Off, so that a leaked key can't be used to create others.
KEYS_MAY_CREATE_KEYS: bool = env.boolean(
    "KEYS_MAY_CREATE_KEYS",
    default=False,
    help="A key may create keys over REST and replace others than itself; none with more "
    "permissions or a later expiry than its own.",
)

LEAKED_KEYS: str = env.text(
    "LEAKED_KEYS",
    default="revoke",
    choices=["revoke", "suspend"],
    help="What happens to a key that was [found in public](leaks.md): it is revoked, or suspended "
    "until staff decide.",
)
# GitHub can't reach a platform on a developer's machine.
GITHUB_LEAK_REPORTS: bool = env.boolean(
    "GITHUB_LEAK_REPORTS",
    default=PRODUCTION,
    default_help="on with `PRODUCTION`",
    help="GitHub's secret scanning may [report exposed keys](leaks.md).",
)
GITHUB_SECRET_SCANNING_KEYS_URL: str = env.text(
    "GITHUB_SECRET_SCANNING_KEYS_URL",
    default="https://api.github.com/meta/public_keys/secret_scanning",
    kind="URL",
    help="Where the public keys that sign GitHub's reports are read.",
)
# A server that answers here can sign reports, and so revoke keys.
_parts = urlsplit(GITHUB_SECRET_SCANNING_KEYS_URL)
if _parts.scheme != "https" and (_parts.scheme != "http" or _parts.hostname not in LOOPBACK):
    env.add_error("GITHUB_SECRET_SCANNING_KEYS_URL", "must begin with https://.")
SECURITY_CONTACT: list[str] = []
for _given in env.strings(
    "SECURITY_CONTACT",
    kind="list of email addresses and URLs",
    help="Contacts for vulnerability reports in `/.well-known/security.txt`. Without any there is "
    "no such file.",
):
    _contact = _given if ":" in _given else f"mailto:{_given}"
    if _contact.startswith(("https://", "tel:")) or (
        _contact.startswith("mailto:") and "@" in _contact
    ):
        SECURITY_CONTACT.append(_contact)
    else:
        env.add_error(
            "SECURITY_CONTACT",
            f"has {_given!r}: it must be a mail address, or begin with https:// or tel:.",
        )

# The OWASP minimum. Tokens are random, so that they would be safe with a fast hash too.
ARGON2_MEMORY_KIB: int = env.integer(
    "ARGON2_MEMORY_KIB",
    default=19456,
    least=8,
    most=4 << 20,
    help="Memory of one Argon2id pass, in KiB; at least 8 for each of `ARGON2_LANES`.",
)
ARGON2_PASSES: int = env.integer(
    "ARGON2_PASSES", default=2, least=1, most=100, help="Number of Argon2id iterations."
)
ARGON2_LANES: int = env.integer(
    "ARGON2_LANES", default=1, least=1, most=64, help="Parallelism of Argon2id."
)
if ARGON2_MEMORY_KIB < 8 * ARGON2_LANES:
    env.add_error(
        "ARGON2_MEMORY_KIB", "must be at least 8 for each of ARGON2_LANES (RFC 9106 §3.1)."
    )
ARGON2_CONCURRENCY: int = env.integer(
    "ARGON2_CONCURRENCY",
    default=2,
    least=0,
    most=256,
    help="Number of Argon2id computations at a time per process, which bounds memory.",
)
ARGON2_WAIT: float = env.seconds(
    "ARGON2_WAIT",
    default=2.0,
    least=0,
    most=600,
    help="How long a request waits for Argon2id; then it is answered 503 with `Retry-After`.",
)
ARGON2_PATIENT_WAIT: float = env.seconds(
    "ARGON2_PATIENT_WAIT",
    default=20.0,
    least=0,
    most=600,
    help="The same for `POST /customers`. ComfyUI deletes its key after any failure of this "
    "request.",
)
# Uses are counted in memory.
USAGE_FLUSH_INTERVAL: float = env.seconds(
    "USAGE_FLUSH_INTERVAL",
    default=5.0,
    least=0,
    most=3600,
    help="How often counted uses of keys are written to the database.",
)
