"""The mail server, and what depends on whether there is one."""

from email.utils import formataddr, parseaddr
from typing import Any

from config.settings.appearance import SITE_NAME
from config.settings.base import PRODUCTION, env
from config.settings.network import PUBLIC_HOST
from core import database_urls

env.section("Mail")

_url = env.text(
    "EMAIL_URL",
    required=PRODUCTION,
    default_help="required with `PRODUCTION`; else mail is printed in the terminal",
    kind="URL or `none`",
    help="`submission://user:password@host` or `smtp://user:password@host:465?ssl=on`. With it, "
    "email addresses are verified. `none`: [no mail at all](deployment.md#without-mail).",
)
# Mail is not even printed: with its codes and links, everyone who reads the log could log in.
NO_MAIL: bool = (_url or "").lower() == "none"
# Without a mail server email addresses can't be verified, so nothing waits for it.
HAS_MAIL_SERVER: bool = not NO_MAIL and (PRODUCTION or _url is not None)
ACCOUNT_EMAIL_VERIFICATION = "mandatory" if HAS_MAIL_SERVER else "optional"
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = HAS_MAIL_SERVER
ACCOUNT_EMAIL_VERIFICATION_SUPPORTS_RESEND = HAS_MAIL_SERVER
# An account with a passkey alone has no password to fall back on: it needs a verified email.
MFA_PASSKEY_SIGNUP_ENABLED = HAS_MAIL_SERVER
# Otherwise anyone could sign up with another person's email and lock it with a second factor.
MFA_ALLOW_UNVERIFIED_EMAIL = not HAS_MAIL_SERVER

MAILERS: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": f"outbox.console.{'NoBackend' if NO_MAIL else 'TerminalBackend'}"}
}
mail_options: dict[str, Any] | None = None
if HAS_MAIL_SERVER:
    try:
        mail_options = database_urls.mail(_url) if _url else None
    except ValueError as _error:
        env.add_error("EMAIL_URL", str(_error))
    # Stores the mail in the database; a thread passes it to the server.
    MAILERS["default"] = {"BACKEND": "outbox.backend.OutboxBackend"}
    MAILERS["server"] = {
        "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "OPTIONS": mail_options or {},
    }
_sender = env.text(
    "DEFAULT_FROM_EMAIL",
    default_help="`SITE_NAME` and `no-reply@` the host of `PUBLIC_URL`",
    kind="`email` or `Name <email>`",
    help="The sender of mails.",
)
if _sender and ("@" not in parseaddr(_sender)[1] or not _sender.isprintable()):
    env.add_error("DEFAULT_FROM_EMAIL", "must be an address, or Name <address>.")
DEFAULT_FROM_EMAIL: str = _sender or formataddr((SITE_NAME, f"no-reply@{PUBLIC_HOST}"))
SERVER_EMAIL = DEFAULT_FROM_EMAIL
