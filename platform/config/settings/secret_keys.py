"""Secrets: Django's key, the pepper of the key hashes, and the secrets of services."""

import os

from apikeys import service_secrets
from backups import secretfiles
from config.parsers import get_or_create_secret_file
from config.settings.base import PRODUCTION, VAR, env

_MIN_LENGTH = 32

env.section("Secrets")


def _secret(name: str, *, help: str) -> str:
    """Return a secret of the environment or, without PRODUCTION, of a file in VAR_DIR."""
    value: str = (
        env.text(
            name,
            required=PRODUCTION,
            default_help=f"required with `PRODUCTION`; else created in `VAR_DIR/{name.lower()}`",
            help=f"{help} At least {_MIN_LENGTH} random characters.",
        )
        or ""
    )
    if value or PRODUCTION:
        if value and len(value) < _MIN_LENGTH:
            env.add_error(name, "must be at least 32 characters of random text.")
        return value
    return _secret_in_var(name)


def _secret_in_var(name: str) -> str:
    """Return the secret in VAR_DIR, creating it once. Errors are added to the report."""
    if os.environ.get(f"{name}_FILE"):
        env.add_error(name, f"is empty in the file that {name}_FILE names.")
        return ""
    file = VAR / name.lower()
    try:
        value = get_or_create_secret_file(file)
    except (OSError, ValueError) as error:
        env.add_error(name, f"can't be read: {error}.")
        return ""
    if len(value) < _MIN_LENGTH:
        # A full disk truncated the file. Anyone could compute what is signed with an empty secret.
        env.add_error(name, f"is cut short in {file}: put the secret back there from your copy.")
    return value


def _former_secrets(name: str, *, help: str) -> list[str]:
    """Return the former values of a secret, from the environment and from VAR_DIR."""
    former = env.strings(f"{name}_FALLBACKS", help=help)
    if any(len(value) < _MIN_LENGTH for value in former):
        env.add_error(
            f"{name}_FALLBACKS",
            "must each be at least 32 characters, separated by commas or blanks.",
        )
    # Earlier versions did not strip the value, so blanks at its ends were part of the secret.
    given = os.environ.get(name, "")
    if given.strip() != given and given.strip():
        former = [*former, given]
    if _is_in_var(name):
        former = [*former, *secretfiles.read(VAR / f"{name.lower()}_fallbacks")]
    return former


def _is_in_var(name: str) -> bool:
    return not PRODUCTION and not env.is_set(name)


SECRET_KEY = _secret("SECRET_KEY", help="Django's secret key, for sessions, cookies and links.")
# Whether `manage.py rotate_secret_key` can replace it.
SECRET_KEY_IN_VAR: bool = _is_in_var("SECRET_KEY")
SECRET_KEY_FALLBACKS: list[str] = _former_secrets(
    "SECRET_KEY",
    help="Former values of `SECRET_KEY`, which are still accepted. `manage.py rotate_secret_key` "
    "says when they can go.",
)
KEY_PEPPER = _secret(
    "KEY_PEPPER",
    help="The pepper of the hashes of API keys ([security.md](security.md)). Without it all keys "
    "are lost, and no backup contains it.",
)
# Whether `manage.py rotate_pepper` can replace it.
KEY_PEPPER_IN_VAR: bool = _is_in_var("KEY_PEPPER")
KEY_PEPPER_FALLBACKS: list[str] = _former_secrets(
    "KEY_PEPPER",
    help="Former values of `KEY_PEPPER`, which keys from before still need. "
    "`manage.py rotate_pepper --finish` counts these keys.",
)

SERVICE_SECRETS: list[str] = service_secrets.split(
    env.text(
        "SERVICE_SECRETS",
        default="",
        default_help="none",
        kind="list of `name:scopes:secret`",
        help="[Services](security.md#services) that may ask about the keys of other people, such "
        "as `gateway:batch+introspect:3f1c…`. The scopes are `verify` "
        "(`/admin/verify-api-key`), `batch` (`/api/v1/keys/validate/batch`), `introspect` "
        "(`/oauth/introspect`) and `leaks` (`/api/v1/leaks`); a secret alone has all of them. Two "
        "entries may have the same name while one replaces the other.",
    )
)
try:
    service_secrets.parse_all(SERVICE_SECRETS)
except ValueError as _error:
    env.add_error("SERVICE_SECRETS", str(_error))
