"""Production: verified TLS to databases, caches and mail servers, HSTS for subdomains, no mail."""

import ssl

import pytest
from django.core.mail import mailers

from tests.config.test_environment import LONG, errors, start
from tests.conftest import PASSWORD


def production(tmp_path, **variables: str) -> dict[str, str]:
    return {
        "PRODUCTION": "1",
        "SECRET_KEY": LONG,
        "KEY_PEPPER": LONG,
        "DATABASE_URL": f"sqlite:///{tmp_path}/x.sqlite3",
        "EMAIL_URL": "submission://keys:pw@mail.example.org",
        "PUBLIC_URL": "https://keys.example.org",
        **variables,
    }


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "True"),
        ({"HSTS_SUBDOMAINS": "0"}, "False"),
    ],
)
def test_hsts_includes_subdomains_in_production(tmp_path, variables, expected):
    started = start(
        tmp_path,
        "SECURE_HSTS_INCLUDE_SUBDOMAINS",
        "SECURE_HSTS_SECONDS",
        **production(tmp_path, **variables),
    )
    assert started.stdout.split() == [expected, str(365 * 24 * 3600)]


def test_every_response_has_the_hsts_header(client, db, settings):
    settings.SECURE_HSTS_SECONDS, settings.SECURE_HSTS_INCLUDE_SUBDOMAINS = 31_536_000, True
    for path in ("/login", "/nowhere", "/customers", "/static/nothing"):
        response = client.get(path, secure=True)
        assert response["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"


def test_a_loopback_host_sends_no_hsts(tmp_path):
    started = start(tmp_path, "SECURE_HSTS_INCLUDE_SUBDOMAINS", "SECURE_HSTS_SECONDS")
    assert started.stdout.split() == ["False", "0"]


def test_tls_to_other_hosts_follows_their_urls(tmp_path):
    started = start(
        tmp_path,
        "DATABASES['default']['OPTIONS']['sslmode']",
        "DATABASES['default']['OPTIONS']['sslrootcert']",
        "CACHES['shared']['LOCATION']",
        "MAILERS['server']['OPTIONS']['use_tls']",
        **production(
            tmp_path,
            DATABASE_URL="postgres://keys:pw@db.example/keys?sslmode=verify-full&sslrootcert=system",
            CACHE_URL="rediss://cache.example:6380/0",
        ),
    )
    assert started.stdout.split() == [
        "verify-full",
        "system",
        "rediss://cache.example:6380/0",
        "True",
    ]


REMOTE = {
    "DATABASE_URL": "postgres://keys:hunter2@db.example/keys?sslmode=require",
    "LISTEN_DATABASE_URL": "postgres://keys:hunter2@db.example/keys",
    "MIGRATION_DATABASE_URL": "postgres://owner:hunter2@db.example/keys",
    "REPLICA_URL": "postgres://keys:hunter2@replica.example/keys?sslmode=require",
    "CACHE_URL": "redis://cache.example:6379/0",
    "EMAIL_URL": "smtp://keys:hunter2@mail.example:587",
}


def test_production_reports_urls_without_verified_tls(tmp_path):
    found = errors(tmp_path, **production(tmp_path, **REMOTE))
    assert found.keys() == REMOTE.keys()
    for name, message in found.items():
        assert f"ALLOW_UNVERIFIED_TLS={name}" in message
    assert "hunter2" not in str(found)


def test_unverified_tls_is_allowed_by_name_only(tmp_path):
    found = errors(
        tmp_path, **production(tmp_path, **REMOTE, ALLOW_UNVERIFIED_TLS="CACHE_URL EMAIL_URL, ALL")
    )
    assert found.keys() == {
        "ALLOW_UNVERIFIED_TLS",
        "DATABASE_URL",
        "LISTEN_DATABASE_URL",
        "MIGRATION_DATABASE_URL",
        "REPLICA_URL",
    }
    started = start(
        tmp_path,
        "CACHE_URL",
        **production(tmp_path, **REMOTE, ALLOW_UNVERIFIED_TLS=",".join(REMOTE)),
    )
    assert started.stdout == "redis://cache.example:6379/0\n", started.stderr


def test_without_production_unverified_tls_is_allowed(tmp_path):
    started = start(tmp_path, "CACHE_URL", **REMOTE)
    assert started.stdout == "redis://cache.example:6379/0\n", started.stderr


def test_production_without_mail_is_set_by_none(tmp_path):
    started = start(
        tmp_path,
        "HAS_MAIL_SERVER",
        "NO_MAIL",
        "ACCOUNT_EMAIL_VERIFICATION",
        "MAILERS['default']['BACKEND']",
        **production(tmp_path, EMAIL_URL="none"),
    )
    assert started.stdout.split() == ["False", "True", "optional", "outbox.console.NoBackend"]


def test_without_mail_nothing_is_printed_and_the_pages_say_so(client, db, settings, capsys):
    settings.NO_MAIL, settings.HAS_MAIL_SERVER = True, False
    settings.MAILERS = {"default": {"BACKEND": "outbox.console.NoBackend"}}
    assert "Email me a code" not in client.get("/login").text
    page = client.get("/account/password/reset").text
    assert "This site sends no email." in page
    assert "terminal" not in page
    response = client.post("/signup", {"email": "nora@example.org", "password1": PASSWORD})
    assert response.status_code == 302
    assert "terminal" not in client.get("/keys/").text
    client.logout()
    client.post("/account/password/reset", {"email": "nora@example.org"})
    assert capsys.readouterr() == ("", "")


def test_the_certificate_of_a_mail_server_is_verified(settings):
    settings.MAILERS = {
        "default": {
            "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
            "OPTIONS": {"host": "127.0.0.1", "use_tls": True},
        }
    }
    context = mailers["default"].ssl_context
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
