"""Invalid arguments and settings are refused with a message, which never contains a key."""

import asyncio
import math
import ssl
from pathlib import Path

import pytest
import trustme
from comfy_keys import AsyncClient, Client, cli, drf, platform_url
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

URL = "https://keys.example.org"
SECRET = "comfyui-" + "5e" * 32


@pytest.mark.parametrize("key", [None, SECRET.encode(), 7, [SECRET], {"key": SECRET}])
def test_a_key_that_is_no_string_is_refused(key):
    client = Client(URL, service_secret="a-secret-of-the-gateways-own")
    many = (
        lambda: client.validate(key),
        lambda: client.validate_many([SECRET, key]),
        lambda: asyncio.run(AsyncClient(URL).validate(key)),
    )
    for call in many:
        with pytest.raises(
            TypeError, match=rf"The key must be a str, not {type(key).__name__}"
        ) as known:
            call()
        assert "5e5e" not in str(known.value)


@pytest.mark.parametrize("keys", [None, SECRET, SECRET.encode(), 7])
def test_keys_that_are_no_collection_are_refused(keys):
    for service_secret in None, "a-secret-of-the-gateways-own":
        with pytest.raises(TypeError, match="validate_many takes several keys") as known:
            Client(URL, service_secret=service_secret).validate_many(keys)
        assert "5e5e" not in str(known.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": None}, "URL of the site must be a str"),
        ({"url": "keys.example.org"}, "must start with https"),
        ({"service_secret": 7}, "service secret"),
        ({"service_secret": ""}, "service secret"),
        ({"timeout": None}, "timeout must be a number"),
        ({"timeout": 0}, "timeout must be a number"),
        ({"timeout": math.nan}, "timeout must be a number"),
        ({"timeout": "5"}, "timeout must be a number"),
        ({"cache_for": -1}, "cache_for must be a number"),
        ({"cache_for": math.inf}, "cache_for must be a number"),
        ({"cache_for": None}, "cache_for must be a number"),
        ({"cache_size": 0}, "cache_size must be a whole number"),
        ({"cache_size": True}, "cache_size must be a whole number"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_invalid_options_are_refused_with_a_message(kind, options, words):
    with pytest.raises((TypeError, ValueError), match=words):
        kind(**{"url": URL, **options})


@pytest.mark.parametrize("url", [None, "keys.example.org"])
def test_an_invalid_django_setting_is_named(url):
    with (
        override_settings(COMFY_KEYS={"URL": url}),
        pytest.raises(ImproperlyConfigured, match=r"^COMFY_KEYS: The URL of the site"),
    ):
        drf.client()


# --- Certificates ---------------------------------------------------------------------------


@pytest.fixture
def wrong_files(tmp_path: Path) -> dict[str, Path]:
    files = {name: tmp_path / name for name in ("missing", "empty", "text", "key", "folder")}
    files["empty"].touch()
    files["text"].write_text("certificates are elsewhere")
    trustme.CA().private_key_pem.write_to_path(str(files["key"]))
    files["folder"].mkdir()
    return files


@pytest.mark.parametrize("name", ["missing", "empty", "text", "key", "folder"])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_file_without_certificates_is_named(kind, wrong_files, name, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(wrong_files[name]))
    with pytest.raises(ValueError, match=rf"SSL_CERT_FILE is '.*{name}', which can't be used: \w+"):
        kind(URL)


def test_a_folder_of_certificates_that_is_missing_is_named(wrong_files, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(wrong_files["missing"]))
    with pytest.raises(ValueError, match="SSL_CERT_DIR is"):
        Client(URL)
    monkeypatch.setenv("SSL_CERT_DIR", f"{wrong_files['missing']}:{wrong_files['folder']}")
    Client(URL).close()


@pytest.mark.parametrize("command", ["login", "check"])
def test_the_command_names_the_file(command, wrong_files, monkeypatch, capsys):
    monkeypatch.setenv("SSL_CERT_FILE", str(wrong_files["missing"]))
    monkeypatch.setenv("COMFY_API_KEY", SECRET)
    assert cli.main([command, "--url", URL]) == cli.USAGE
    said = capsys.readouterr()
    assert "SSL_CERT_FILE is" in said.err
    assert "Traceback" not in said.err


def test_a_file_with_a_certificate_is_accepted(tmp_path, monkeypatch):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = platform_url.ssl_context()
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert any("trustme" in str(one["subject"]) for one in context.get_ca_certs())
