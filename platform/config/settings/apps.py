"""Installed apps, middleware and templates."""

from config.settings.base import BASE_DIR
from config.settings.database import DATABASES

INSTALLED_APPS = [
    "staff.apps.AdminConfig",
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
    # Replaces allauth.usersessions' own configuration.
    "accounts.session_list.UserSessionsConfig",
    "accounts.github",
    "accounts.google",
    "corsheaders",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "rest_framework",
    # After allauth, to replace what it registered with the admin.
    "accounts",
    "apikeys",
    "audit",
    "backups",
    "oauth",
    "outbox",
    "sites.apps.SitesConfig",
    "uploads",
    # After the apps of the permissions that its roles have.
    "staff",
    "server",
]

MIDDLEWARE = [
    # Around everything: what it writes into the log is known afterwards.
    "core.middleware.note_route",
    # Security headers first, so that files and errors have them too.
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.csp.ContentSecurityPolicyMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "core.middleware.security_headers",
    "core.middleware.no_store_html",
    "core.middleware.strip_content_length_204",
    # Before everything that can return an error: ComfyUI's page must be able to read it.
    "corsheaders.middleware.CorsMiddleware",
    "core.middleware.answer_probes",
    "core.https_only.reject_plain_http",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "apikeys.middleware.reject_key_in_query_string",
    "core.middleware.reject_compressed_forms",
    "core.middleware.RefuseOtherMethods",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "accounts.session_expiry.expire_sessions",
    "core.middleware.locale_from_account",
    "core.time_zones.activate_time_zone",
    "django.contrib.messages.middleware.MessageMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "accounts.device_tracking.track_activity",
]
if "replica" in DATABASES:
    # Innermost: a login or logout in the view changes the session.
    MIDDLEWARE.append("core.replica.remember_writes")

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
# A POST to a path without its slash gets an answer, never a redirect: a redirected POST loses its
# body, and comfy-cli follows no redirect.
APPEND_SLASH = False

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            # core is not an app.
            "libraries": {
                "charts": "core.charts",
                "dates": "core.dates",
                "pages": "core.pages",
            },
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "django.template.context_processors.csp",
                "core.context_processors.site",
                "accounts.context_processors.platform",
                "sites.context_processors.navigation",
            ],
        },
    },
]
FORM_RENDERER = "core.forms.Renderer"
