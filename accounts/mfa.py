"""MFA: django-allauth's adapter and login stage, and encryption of authenticator secrets."""

import ipaddress
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import batched
from typing import Any, Final
from urllib.parse import urlsplit

from allauth.account.authentication import get_authentication_records
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator
from allauth.mfa.stages import AuthenticateStage
from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import Error, transaction
from django.http import HttpRequest
from django.utils.translation import gettext as _

from accounts.models import User
from core import encryption
from core.encryption import DecryptionError

logger = logging.getLogger(__name__)

# The name under which keys for authenticator secrets are derived from SECRET_KEY.
_PURPOSE: Final = "mfa secrets"
# Types of factors with encrypted secrets. A passkey is a public key.
ENCRYPTED: Final = (Authenticator.Type.TOTP, Authenticator.Type.RECOVERY_CODES)
_BATCH: Final = 500


class MFAAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    def encrypt(self, text: str) -> str:
        """Return `text` encrypted, so that a stolen database can't generate codes."""
        return encryption.encrypt(text, purpose=_PURPOSE)

    def decrypt(self, encrypted_text: str) -> str:
        """Return the secret. Raise DecryptionError if no configured SECRET_KEY decrypts it."""
        return encryption.decrypt(encrypted_text, purpose=_PURPOSE)

    def get_totp_issuer(self) -> str:
        return settings.PUBLIC_URL.partition("://")[2]

    def generate_authenticator_name(self, user: User, type: Any) -> str:  # noqa: A002 (allauth's)
        count = Authenticator.objects.filter(user=user, type=type).count()
        return _("Passkey %(number)d") % {"number": count + 1}


class SecondFactorStage(AuthenticateStage):  # type: ignore[misc]
    """Requires the second factor, except of passkey-only accounts that log in by e-mail code.

    The passkey is the first factor of such an account. After its loss, only the code is left.
    """

    def _should_handle(self, request: HttpRequest) -> bool:
        user = self.login.user
        return super()._should_handle(request) and not (
            not user.has_usable_password()
            and types(user) == {"webauthn"}
            and any(
                record["method"] == "code" for record in get_authentication_records(request, user)
            )
        )


def may_use_passkeys(request: HttpRequest) -> bool:
    """Return whether browsers support passkeys at the origin of `request`.

    Passkeys need a domain, not an IP address, and HTTPS or localhost (WebAuthn Level 3 §13.4.9,
    Secure Contexts §3.1).
    """
    host = urlsplit(f"//{request.get_host()}").hostname or ""
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return False
    return request.is_secure() or host == "localhost" or host.endswith(".localhost")


def types(user: AbstractBaseUser | AnonymousUser) -> set[str]:
    """Return `user`'s types of second factor: a subset of {"totp", "webauthn"}."""
    second_factors = [Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN]
    found = Authenticator.objects.filter(user_id=user.pk, type__in=second_factors)
    return set(found.values_list("type", flat=True))


def used_second_factor(request: HttpRequest) -> bool:
    """Return whether a second factor or a passkey was used in this session."""
    records = get_authentication_records(request, request.user)
    return any(record["method"] == "mfa" for record in records)


def unreadable_types(user: AbstractBaseUser | AnonymousUser) -> set[str]:
    """Return the types of `user`'s factors whose secrets no configured SECRET_KEY decrypts."""
    found = Authenticator.objects.filter(user_id=user.pk, type__in=ENCRYPTED)
    return {factor.type for factor in found if key_of(factor) is None}


def key_of(factor: Authenticator) -> str | None:
    """Return the id of the SECRET_KEY that `factor` needs; None if no configured key decrypts it.

    For secrets under several keys, return a former key.
    """
    keys: list[str | None] = []
    _map_secrets(
        factor.data, lambda secret: keys.append(encryption.key_of(secret, purpose=_PURPOSE))
    )
    current = encryption.key_id(settings.SECRET_KEY)
    if None in keys:
        return None
    return next((key for key in keys if key != current), current)


def count_by_key() -> Counter[str | None]:
    """Count authenticator apps and sets of recovery codes by their SECRET_KEY (`key_of`)."""
    found = Authenticator.objects.filter(type__in=ENCRYPTED).order_by()
    return Counter(map(key_of, found.iterator()))


def reencrypt(factor: Authenticator) -> bool:
    """Encrypt the secrets of `factor` under the current SECRET_KEY. Return False if they were.

    Raise DecryptionError, and change nothing, if a secret can't be decrypted.
    """
    current = encryption.key_id(settings.SECRET_KEY)
    if factor.type not in ENCRYPTED or key_of(factor) == current:
        return False
    adapter = MFAAdapter()
    with transaction.atomic():
        # Read again under a lock, so that a recovery code used in the meantime stays used.
        locked = Authenticator.objects.select_for_update().filter(pk=factor.pk).first()
        if locked is None:
            return False
        locked.data = _map_secrets(
            locked.data, lambda secret: adapter.encrypt(adapter.decrypt(secret))
        )
        locked.save(update_fields=["data"])
    factor.data = locked.data
    return True


def reencrypt_all() -> int:
    """Re-encrypt all factors, and return how many changed. Skip those that can't be decrypted."""
    done = 0
    everything = Authenticator.objects.filter(type__in=ENCRYPTED).order_by("pk")
    # By id, since not every database keeps a cursor open while rows are written.
    for ids in batched(everything.values_list("pk", flat=True), _BATCH):
        for factor in Authenticator.objects.filter(pk__in=ids):
            with suppress(DecryptionError):
                done += reencrypt(factor)
    return done


def reencrypt_all_of(user: User) -> None:
    """Re-encrypt all factors of `user` after one was used. Errors are logged, not raised."""
    for factor in Authenticator.objects.filter(user=user, type__in=ENCRYPTED):
        try:
            reencrypt(factor)
        except DecryptionError:
            # The owner sees unreadable factors on the MFA page.
            continue
        except Error:
            logger.warning("Factor %s could not be re-encrypted. Its next use retries.", factor.pk)


def _map_secrets(data: dict[str, Any], change: Callable[[str], Any]) -> dict[str, Any]:
    """Return a factor's data with `change` applied to each encrypted secret in it."""
    names = [name for name in ("secret", "seed") if name in data]
    changed: dict[str, Any] = {name: change(data[name]) for name in names}
    # Recovery codes created before allauth derived them from a seed.
    if data.get("migrated_codes"):
        changed["migrated_codes"] = [change(code) for code in data["migrated_codes"]]
    return {**data, **changed}
