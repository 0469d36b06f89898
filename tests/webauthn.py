"""A passkey in software, and a browser's requests with it (W3C WebAuthn Level 2)."""

import json
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Any

from allauth.account.utils import user_pk_to_url_str
from allauth.mfa.models import Authenticator
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from django.test import Client
from fido2.cose import CoseKey
from fido2.webauthn import (
    AttestationObject,
    AttestedCredentialData,
    AuthenticatorData,
    CollectedClientData,
)

from accounts.models import User


def to_base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _challenge(options: dict[str, Any]) -> bytes:
    return urlsafe_b64decode(options["publicKey"]["challenge"] + "==")


def options_on(page) -> dict[str, Any]:
    return json.loads(re.search(r'<script id="[^"]*options"[^>]*>(.*?)</script>', page.text)[1])


class Passkey:
    """A passkey of `user` in software, for http://localhost. User presence is always given."""

    def __init__(self, user: User, *, rp_id: str = "localhost") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._id = secrets.token_bytes(16)
        self._rp_hash = sha256(rp_id.encode()).digest()
        self._handle = user_pk_to_url_str(user).encode()
        self.row = Authenticator.objects.create(
            user=user, type="webauthn", data={"name": "phone", "credential": self.made()}
        )

    def made(self, options: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what a browser posts after it has created this passkey."""
        challenge = _challenge(options) if options else b"challenge"
        public = CoseKey.for_alg(-7).from_cryptography_key(self._key.public_key())
        known = AttestedCredentialData.create(b"\0" * 16, self._id, public)
        data = AuthenticatorData.create(self._rp_hash, 0x45, 0, bytes(known))
        client = CollectedClientData.create("webauthn.create", challenge, "http://localhost")
        return {
            "id": to_base64(self._id),
            "rawId": to_base64(self._id),
            "type": "public-key",
            "response": {
                "clientDataJSON": to_base64(bytes(client)),
                "attestationObject": to_base64(bytes(AttestationObject.create("none", data, {}))),
            },
            "clientExtensionResults": {"credProps": {"rk": True}},
        }

    def answer(self, options: dict[str, Any], *, verifies: bool = True, **changes: Any) -> str:
        """Return what a browser posts at login. verifies: whether user verification succeeded."""
        client = CollectedClientData.create("webauthn.get", _challenge(options), "http://localhost")
        data = AuthenticatorData.create(self._rp_hash, 0x05 if verifies else 0x01, 1)
        signed = self._key.sign(bytes(data) + client.hash, ec.ECDSA(hashes.SHA256()))
        response = {
            "clientDataJSON": to_base64(bytes(client)),
            "authenticatorData": to_base64(bytes(data)),
            "signature": to_base64(signed),
            "userHandle": to_base64(self._handle),
        }
        return json.dumps(
            {
                "id": to_base64(self._id),
                "rawId": to_base64(self._id),
                "type": "public-key",
                "response": response,
                "clientExtensionResults": {},
                **changes,
            }
        )


def at_localhost() -> Client:
    """Return a client at localhost, where passkeys work without https."""
    return Client(headers={"host": "localhost"})


def passkey_options(client) -> dict[str, Any]:
    return client.get("/login/passkey", headers={"accept": "application/json"}).json()[
        "request_options"
    ]


def log_in_with(passkey: Passkey, client, **more):
    credential = passkey.answer(passkey_options(client))
    return client.post("/login/passkey", {"credential": credential, **more})
