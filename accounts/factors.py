"""Second factors and passkeys, where django-allauth asks us."""

import base64
import hashlib
import ipaddress
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from allauth.account.authentication import get_authentication_records
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator
from allauth.mfa.stages import AuthenticateStage
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.utils.translation import gettext as _

from accounts.models import User


class MFAAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    def encrypt(self, text: str) -> str:
        """Authenticator secrets rest encrypted: a stolen database makes no codes."""
        return _vault().encrypt(text.encode()).decode()

    def decrypt(self, encrypted_text: str) -> str:
        try:
            return _vault().decrypt(encrypted_text.encode()).decode()
        except InvalidToken:
            # SECRET_KEY was replaced without a fallback. Not a code in the world matches this.
            return base64.b32encode(hashlib.sha256(encrypted_text.encode()).digest()).decode()

    def get_totp_issuer(self) -> str:
        return settings.PUBLIC_URL.partition("://")[2]

    def generate_authenticator_name(self, user: User, type: Any) -> str:  # noqa: A002 (allauth's)
        count = Authenticator.objects.filter(user=user, type=type).count()
        return _("Passkey %(number)d") % {"number": count + 1}


class SecondFactorStage(AuthenticateStage):  # type: ignore[misc]
    """Asks for the second factor, but not for the only first one.

    Whoever signed up with a passkey alone and lost the device comes by a mailed code: the address
    was proved for that.
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
    """Whether a browser makes passkeys for the address that this page was called by.

    They belong to a name, not to an IP address, and need https or this very machine (WebAuthn
    Level 3 §13.4.9, Secure Contexts §3.1).
    """
    host = urlsplit(f"//{request.get_host()}").hostname or ""
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return False
    return request.is_secure() or host == "localhost" or host.endswith(".localhost")


def types(user: AbstractBaseUser | AnonymousUser) -> set[str]:
    """The kinds of second factor that `user` has set up: "totp", "webauthn", both or none."""
    wanted = [Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN]
    found = Authenticator.objects.filter(user_id=user.pk, type__in=wanted)
    return set(found.values_list("type", flat=True))


def proved_second_factor(request: HttpRequest) -> bool:
    """Whether a second factor, or a passkey, was shown in this very session."""
    records = get_authentication_records(request, request.user)
    return any(record["method"] == "mfa" for record in records)


def _vault() -> MultiFernet:
    secrets = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return MultiFernet([Fernet(_key(secret)) for secret in secrets])


def _key(secret: str) -> bytes:
    digest = hashlib.blake2b(secret.encode(), digest_size=32, person=b"mfa secrets").digest()
    return base64.urlsafe_b64encode(digest)
