"""Secrets of authenticator apps and recovery codes after a change of SECRET_KEY.

Undecryptable secrets are refused; secrets under a former key are re-encrypted.
"""

import base64
import hashlib
import hmac
import io
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import (
    TOTP,
    format_hotp_value,
    generate_totp_secret,
    hotp_value,
    yield_hotp_counters_from_time,
)
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.test import Client

from accounts import mfa, services
from accounts.models import User
from core import encryption
from tests.conftest import show_who
from tests.factories import is_in, log_in, run_command

FORMER = "the SECRET_KEY of the time when the factor was set up"
CURRENT = "the SECRET_KEY that has taken the place of the former"


@pytest.fixture
def factor(alice: User, settings: Any) -> str:
    """Alice's app and recovery codes, encrypted under FORMER. Return the app's secret."""
    settings.SECRET_KEY = FORMER
    secret = generate_totp_secret()
    TOTP.activate(alice, secret)
    RecoveryCodes.activate(alice)
    settings.SECRET_KEY = CURRENT
    return secret


def app_codes(secret: str) -> list[str]:
    return [
        format_hotp_value(hotp_value(secret, counter))
        for counter in yield_hotp_counters_from_time()
    ]


def try_code(code: str, client: Client | None = None) -> tuple[Client, Any]:
    client = client or Client()
    log_in(client)
    return client, client.post("/login/factor", {"code": code})


def derived_secrets(ciphertext: str) -> list[str]:
    """Yield the secrets that could be computed from the contents of the database alone."""
    raw = ciphertext.encode()
    hashes = [hashlib.sha256(raw).digest(), hashlib.blake2b(raw).digest()[:20]]
    return [base64.b32encode(each).decode() for each in [*hashes, raw, b"", bytes(20)]]


def test_codes_derived_from_the_database_alone_are_refused(factor: str) -> None:
    row = Authenticator.objects.get(type="totp")
    for secret in derived_secrets(row.data["secret"]):
        for code in app_codes(secret)[:1]:
            cache.clear()
            client, response = try_code(code)
            assert not is_in(client)
            assert "no longer decrypt" in response.content.decode()


def test_recovery_codes_derived_from_the_database_alone_are_refused(
    factor: str,
) -> None:
    row = Authenticator.objects.get(type="recovery_codes")
    for seed in derived_secrets(row.data["seed"]):
        mac = hmac.new(seed.encode(), digestmod=hashlib.sha1)
        mac.update(b"  0,")
        code = str(int.from_bytes(mac.digest()[:4]) % 10**8).zfill(8)
        cache.clear()
        client, response = try_code(code)
        assert not is_in(client)
        assert "no longer decrypt" in response.content.decode()


def test_an_undecryptable_secret_is_reported_to_user_and_operator(
    factor: str, caplog: pytest.LogCaptureFixture
) -> None:
    client, response = try_code(app_codes(factor)[1])
    assert not is_in(client)
    assert "ask your administrator" in response.content.decode()
    assert "SECRET_KEY_FALLBACKS" in caplog.text
    assert factor not in caplog.text
    # The factor is still required: one that can't be checked does not count as missing.
    assert mfa.types(User.objects.get()) == {"totp"}


def test_a_readable_factor_works_beside_an_unreadable_one(
    factor: str, alice: User, settings: Any
) -> None:
    Authenticator.objects.filter(type="recovery_codes").delete()
    code = RecoveryCodes.activate(alice).get_unused_codes()[3]
    client, _answer = try_code(code)
    assert is_in(client)


def test_decrypting_invalid_text_raises(settings: Any) -> None:
    adapter = mfa.MFAAdapter()
    kept = adapter.encrypt("a seed")
    settings.SECRET_KEY = CURRENT
    for text in [kept, "", "gAAAA", kept[:-4], "\N{SNOWMAN}"]:
        with pytest.raises(encryption.DecryptionError):
            adapter.decrypt(text)
    with pytest.raises(encryption.DecryptionError):
        encryption.decrypt(adapter.encrypt("a seed"), purpose="another one")


def test_the_mfa_pages_show_unreadable_factors_and_replace_them(
    factor: str, alice: User, client: Client
) -> None:
    client.force_login(alice)
    show_who(client, alice)
    page = client.get("/account/factors").content.decode()
    assert "can't decrypt its secret" in page
    assert "can no longer be read" in page
    codes = client.get("/account/factors/recovery-codes")
    assert codes.headers["Location"].endswith("/recovery-codes/generate")
    assert client.get(codes.headers["Location"]).status_code == 200
    client.post("/account/factors/recovery-codes/generate")
    assert mfa.unreadable_types(alice) == {"totp"}
    client.post("/account/factors/app/deactivate")
    assert mfa.unreadable_types(alice) == set()


def test_using_a_code_reencrypts_all_secrets_of_its_owner(
    factor: str, alice: User, settings: Any
) -> None:
    settings.SECRET_KEY_FALLBACKS = [FORMER]
    codes = Authenticator.objects.get(type="recovery_codes").wrap().get_unused_codes()
    client, _answer = try_code(app_codes(factor)[1])
    assert is_in(client)
    assert mfa.count_by_key() == {encryption.key_id(CURRENT): 2}
    settings.SECRET_KEY_FALLBACKS = []
    assert Authenticator.objects.get(type="recovery_codes").wrap().get_unused_codes() == codes
    cache.clear()
    client, _answer = try_code(app_codes(factor)[1])
    assert is_in(client)


def test_reencryption_keeps_recovery_codes_used(factor: str, settings: Any) -> None:
    settings.SECRET_KEY_FALLBACKS = [FORMER]
    codes = Authenticator.objects.get(type="recovery_codes").wrap().get_unused_codes()
    client, _answer = try_code(codes[0])
    assert is_in(client)
    settings.SECRET_KEY_FALLBACKS = []
    assert Authenticator.objects.get(type="recovery_codes").wrap().get_unused_codes() == codes[1:]


def test_the_command_counts_and_reencrypts_secrets(
    factor: str, alice: User, mallory: User, settings: Any
) -> None:
    TOTP.activate(mallory, generate_totp_secret())
    settings.SECRET_KEY_FALLBACKS = [FORMER]
    report = run_command("rotate_secret_key")
    assert f"SECRET_KEY is {encryption.key_id(CURRENT)}: 1 " in report
    assert f"{encryption.key_id(FORMER)}: 2" in report
    assert "Left under old keys: 2." in report
    assert "Remove it once" not in report
    report = run_command("rotate_secret_key", "--encrypt")
    assert report.startswith("2 ")
    assert "Left under old keys: 0." in report
    assert "Remove it once" in report
    settings.SECRET_KEY_FALLBACKS = []
    assert is_in(try_code(app_codes(factor)[1])[0])


def test_the_command_reports_undecryptable_secrets_and_keeps_them(
    factor: str, settings: Any
) -> None:
    before = list(Authenticator.objects.values_list("data", flat=True))
    report = run_command("rotate_secret_key", "--encrypt")
    assert "2 authenticator apps and sets of recovery codes can't be read" in report
    assert list(Authenticator.objects.values_list("data", flat=True)) == before


def test_codes_of_older_allauth_versions_are_counted_and_reencrypted(
    alice: User, settings: Any
) -> None:
    settings.SECRET_KEY = FORMER
    adapter = mfa.MFAAdapter()
    codes = ["12345678", "87654321"]
    Authenticator.objects.create(
        user=alice,
        type="recovery_codes",
        data={"migrated_codes": [adapter.encrypt(code) for code in codes], "used_mask": 0},
    )
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = CURRENT, [FORMER]
    assert "Left under old keys: 1." in run_command("rotate_secret_key")
    run_command("rotate_secret_key", "--encrypt")
    settings.SECRET_KEY_FALLBACKS = []
    assert Authenticator.objects.get().wrap().get_unused_codes() == codes


def test_a_new_key_file_keeps_the_former_key_as_a_fallback(settings: Any, tmp_path: Any) -> None:
    settings.VAR, settings.SECRET_KEY_IN_VAR = tmp_path, True
    (tmp_path / "secret_key").write_text(FORMER.replace(" ", "-"))
    run_command("rotate_secret_key", "--new")
    new = (tmp_path / "secret_key").read_text().strip()
    assert len(new) >= 32
    assert (tmp_path / "secret_key_fallbacks").read_text().split() == [FORMER.replace(" ", "-")]
    for name in ("secret_key", "secret_key_fallbacks"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0
    settings.SECRET_KEY_IN_VAR = False
    with pytest.raises(CommandError, match="environment"):
        run_command("rotate_secret_key", "--new")


def test_removing_everybodys_factors_keeps_passkeys(
    factor: str, alice: User, mallory: User, mailoutbox: list[Any]
) -> None:
    TOTP.activate(mallory, generate_totp_secret())
    passkey = Authenticator.objects.create(user=mallory, type="webauthn", data={"name": "phone"})
    out = io.StringIO()
    call_command("remove_factors", "--everybody", stdout=out)
    assert out.getvalue().startswith("2 accounts had 3 ")
    assert list(Authenticator.objects.all()) == [passkey]
    assert {mail.to[0] for mail in mailoutbox} == {alice.email, mallory.email}
    assert all("Your passkeys still work." in mail.body for mail in mailoutbox)


def test_removing_one_accounts_factors_includes_passkeys(
    factor: str, alice: User, mallory: User
) -> None:
    TOTP.activate(mallory, generate_totp_secret())
    call_command("remove_factors", "alice@example.org", stdout=io.StringIO())
    assert not Authenticator.objects.filter(user=alice).exists()
    assert services.remove_factors(mallory) == 1
    with pytest.raises(CommandError):
        call_command("remove_factors", stdout=io.StringIO())
