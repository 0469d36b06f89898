"""What a deployment asks for by its addresses, and gets: TLS to stores and mail, HSTS below."""

import ssl

import pytest
from django.core.mail import mailers

from tests.config.test_environment import LONG, start


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
    ("variables", "below"),
    [
        ({}, "True"),
        ({"HSTS_SUBDOMAINS": "0"}, "False"),
    ],
)
def test_production_says_it_for_what_lies_below_too(tmp_path, variables, below):
    started = start(
        tmp_path,
        "SECURE_HSTS_INCLUDE_SUBDOMAINS",
        "SECURE_HSTS_SECONDS",
        **production(tmp_path, **variables),
    )
    assert started.stdout.split() == [below, str(365 * 24 * 3600)]


def test_the_header_says_it(client, db, settings):
    settings.SECURE_HSTS_SECONDS, settings.SECURE_HSTS_INCLUDE_SUBDOMAINS = 31_536_000, True
    for path in ("/login", "/nowhere", "/customers", "/static/nothing"):
        answer = client.get(path, secure=True)
        assert answer["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"


def test_ones_own_machine_says_it_to_nobody(tmp_path):
    started = start(tmp_path, "SECURE_HSTS_INCLUDE_SUBDOMAINS", "SECURE_HSTS_SECONDS")
    assert started.stdout.split() == ["False", "0"]


def test_tls_to_stores_is_as_their_addresses_say(tmp_path):
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


def test_a_mail_servers_certificate_is_looked_at(settings):
    settings.MAILERS = {
        "default": {
            "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
            "OPTIONS": {"host": "127.0.0.1", "use_tls": True},
        }
    }
    context = mailers["default"].ssl_context
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
