"""Entropy of tokens and codes, and encryption at rest."""

import base64
import math
import re
from collections import Counter

import pytest
from allauth.account.adapter import get_adapter
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import generate_totp_secret
from cryptography.fernet import Fernet

from accounts.mfa import MFAAdapter
from accounts.sessions import SessionStore
from apikeys import services, tokens
from core.encryption import DecryptionError
from oauth import codes

# The smallest alphabet of a typed code.
LETTERS = 20


def test_codes_have_at_least_20_bits(alice):
    mailed = get_adapter().generate_login_code().replace("-", "")
    proving = get_adapter().generate_email_verification_code().replace("-", "")
    typed = codes.generate_user_code()
    for code in (mailed, proving, typed):
        assert len(code) * math.log2(LETTERS) >= 34
    recovery = RecoveryCodes.activate(alice).get_unused_codes()
    assert len(set(recovery)) == 10
    assert all(re.fullmatch(r"\d{8}", code) for code in recovery)
    assert len(generate_totp_secret()) * 5 == 160


def test_tokens_have_at_least_128_bits(alice):
    key, token = services.issue(owner=alice, name="studio")
    assert token.reveal().startswith(f"comfyui-{key.public_id}")
    made = [codes.generate_code() for _number in range(600)]
    assert independent_bits([_read(code) for code in made]) == 256


def _read(code: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(f"{code}="))


def independent_bits(numbers: list[int]) -> int:
    """Return the number of independent bits of these numbers: the rank over GF(2)."""
    first, *others = numbers
    basis: dict[int, int] = {}
    for number in others:
        rest = number ^ first
        while rest and rest.bit_length() in basis:
            rest ^= basis[rest.bit_length()]
        if rest:
            basis[rest.bit_length()] = rest
    return len(basis)


def test_the_secret_of_a_key_has_144_bits():
    """Measured on generated keys: no bit is fixed or a sum of others."""
    made = [tokens.make(tag_key=b"t" * 32) for _ in range(400)]
    # The secret is between the public id, which is visible, and the tag and CRC32, which are
    # derived.
    secrets = [int(token.reveal()[len("comfyui-") + 12 : -16], 16) for token in made]
    assert independent_bits(secrets) == 144
    assert independent_bits([number & ~0xFF for number in secrets]) == 136, "it can measure less"


def test_typed_codes_are_no_keys_and_have_few_attempts(settings):
    """They have fewer bits, so the number of attempts is limited."""
    from allauth.account import app_settings

    odds = {
        "mailed": app_settings.LOGIN_BY_CODE_MAX_ATTEMPTS / LETTERS**8,
        "proving": app_settings.EMAIL_VERIFICATION_BY_CODE_MAX_ATTEMPTS / LETTERS**8,
        # 10 of 10^8 codes are valid; five attempts in five minutes, for a day.
        "recovery": 10 * 5 * 288 / 10**8,
    }
    assert settings.ACCOUNT_RATE_LIMITS["factor"] == "5/5m/key"
    assert odds["mailed"] < 2**-30
    assert odds["proving"] < 2**-30
    assert odds["recovery"] < 2**-12


def test_a_session_id_has_over_128_bits_of_entropy(db):
    """Measured: each position has any of 36 characters, independent of the next position."""
    ids: list[str] = []
    for _ in range(600):
        session = SessionStore()
        session.create()
        ids.append(str(session.session_key))
    assert len(set(ids)) == 600
    assert {len(session_id) for session_id in ids} == {32}
    for position in range(32):
        # Each of the 36 about 17 times.
        counts = Counter(session_id[position] for session_id in ids)
        assert len(counts) == 36
        assert max(counts.values()) < 60
        pairs = {(session_id[position], session_id[(position + 1) % 32]) for session_id in ids}
        assert len(pairs) > 400
    assert 32 * math.log2(36) > 128


def test_every_encryption_has_a_random_initialization_vector():
    adapter = MFAAdapter()
    made = [base64.urlsafe_b64decode(adapter.encrypt("the same")) for _ in range(500)]
    # A Fernet token: version, eight bytes of time, then a vector of 128 bits.
    assert independent_bits([int.from_bytes(token[9:25]) for token in made]) == 128


def test_codes_do_not_repeat():
    assert len({codes.generate_user_code() for _number in range(1000)}) == 1000
    assert len({get_adapter().generate_login_code() for _number in range(1000)}) == 1000


@pytest.mark.parametrize("position", [0, 10, 30, -1])
def test_encrypted_text_is_authenticated(position):
    adapter = MFAAdapter()
    kept = adapter.encrypt("a seed that nobody knows")
    assert adapter.decrypt(kept) == "a seed that nobody knows"
    # Another nonce each time.
    assert adapter.encrypt("a seed that nobody knows") != kept
    other = "A" if kept[position] != "A" else "B"
    spoilt = kept[:position] + other + (kept[position + 1 :] if position != -1 else "")
    with pytest.raises(DecryptionError):
        adapter.decrypt(spoilt)


def test_another_key_does_not_decrypt():
    kept = Fernet(Fernet.generate_key()).encrypt(b"a seed that nobody knows").decode()
    with pytest.raises(DecryptionError):
        MFAAdapter().decrypt(kept)
