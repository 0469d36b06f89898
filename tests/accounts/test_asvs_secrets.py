"""How much there is to guess of what opens something, and how what rests encrypted is kept."""

import math
import re

import pytest
from allauth.account.adapter import get_adapter
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import generate_totp_secret
from cryptography.fernet import Fernet

from accounts.factors import MFAAdapter
from apikeys import services
from oauth import codes

# What may be in a code that people type, at the least.
LETTERS = 20


def test_codes_have_twenty_bits_and_more(alice):
    mailed = get_adapter().generate_login_code().replace("-", "")
    proving = get_adapter().generate_email_verification_code().replace("-", "")
    typed = codes.make_typed()
    for code in (mailed, proving, typed):
        assert len(code) * math.log2(LETTERS) >= 34
    recovery = RecoveryCodes.activate(alice).get_unused_codes()
    assert len(set(recovery)) == 10
    assert all(re.fullmatch(r"\d{8}", code) for code in recovery)
    assert len(generate_totp_secret()) * 5 == 160


def test_what_opens_something_has_128_bits(alice):
    key, token = services.issue(owner=alice, name="studio")
    digits = token.reveal().removeprefix("comfyui-")
    of_its_own = digits.removeprefix(key.public_id)[:36]
    assert len(of_its_own) * 4 == 144
    made = {codes.make() for _number in range(100)}
    assert len(made) == 100
    assert {len(code) for code in made} == {43}, "256 bits in base64"


def test_no_code_repeats():
    assert len({codes.make_typed() for _number in range(1000)}) == 1000
    assert len({get_adapter().generate_login_code() for _number in range(1000)}) == 1000


@pytest.mark.parametrize("place", [0, 10, 30, -1])
def test_what_rests_encrypted_is_authenticated(place):
    adapter = MFAAdapter()
    kept = adapter.encrypt("a seed that nobody knows")
    assert adapter.decrypt(kept) == "a seed that nobody knows"
    # Another vector each time.
    assert adapter.encrypt("a seed that nobody knows") != kept
    other = "A" if kept[place] != "A" else "B"
    spoilt = kept[:place] + other + (kept[place + 1 :] if place != -1 else "")
    assert adapter.decrypt(spoilt) != "a seed that nobody knows"


def test_it_opens_with_no_other_key():
    kept = Fernet(Fernet.generate_key()).encrypt(b"a seed that nobody knows").decode()
    assert MFAAdapter().decrypt(kept) != "a seed that nobody knows"
