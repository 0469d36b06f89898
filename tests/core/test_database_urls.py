"""URLs of databases, caches and mail servers are used in full, or refused with a message."""

import pytest

from core import database_urls


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://keys:hunter2@db/keys", "no other kind"),
        ("postgresqlx://db/keys", "no other kind"),
        ("keys.sqlite3", "no other kind"),
        ("postgres://keys:hun#ter2@db/keys", "%23"),
        ("postgres://keys:hun?ter2@db/keys", "special characters"),
        ("postgres://keys:hun/ter2@db/keys", "special characters"),
        ("postgres://keys:12/hunter2@db/keys", "special characters"),
        ("postgres://db:port/keys", "special characters"),
        ("postgres://[db/keys", "special characters"),
        ("postgres://db", "names no database"),
        ("postgres://db/", "names no database"),
        ("postgres://db/keys?sslmod=verify-full", "'sslmod'"),
        ("postgres://db/keys?sslmode=verify", "none of"),
        ("postgres://db/keys?sslmode=", "without a value"),
        ("postgres://db/keys?sslmode", "special characters"),
        ("postgres://db/keys?sslmode=require&sslmode=disable", "twice"),
        ("postgres://db/keys?host=other", "names the host twice"),
        ("postgres://db:5432/keys?port=5433", "names the port twice"),
        ("postgres://db/keys?dbname=other", "'dbname'"),
        ("postgres://db/keys?pool=on", "'pool'"),
        ("postgres://db/keys?conn_max_age=60", "'conn_max_age'"),
        ("sqlite://var/keys.sqlite3", "four slashes"),
        ("sqlite:///", "four slashes"),
        ("sqlite:////srv/keys.sqlite3?mode=ro", "'mode'"),
        ("sqlite:////srv/keys.sqlite3?timeout=never", "seconds"),
    ],
)
def test_an_invalid_database_url_is_refused_without_its_password(url, message):
    with pytest.raises(ValueError, match=message) as refused:
        database_urls.database(url)
    for part in ("hunter2", "ter2", "hun"):
        assert part not in str(refused.value)


def test_all_parts_of_a_database_url_are_used():
    found = database_urls.database(
        "postgres://keys:p%23%2F%40ss@db.example:5433/keys?sslmode=verify-full&sslrootcert=/ca.pem"
    )
    assert found["ENGINE"] == "django.db.backends.postgresql"
    assert (found["USER"], found["PASSWORD"]) == ("keys", "p#/@ss")
    assert (found["HOST"], found["PORT"], found["NAME"]) == ("db.example", 5433, "keys")
    assert found["OPTIONS"] == {"sslmode": "verify-full", "sslrootcert": "/ca.pem"}
    several = database_urls.database(
        "postgres://keys:pw@/keys?host=db1,db2&port=5432,5433&target_session_attrs=read-write"
    )
    assert several["HOST"] == ""
    assert several["OPTIONS"] == {
        "host": "db1,db2", "port": "5432,5433", "target_session_attrs": "read-write",
    }  # fmt: skip
    file = database_urls.database("sqlite:////srv/keys.sqlite3?timeout=20")
    assert (file["NAME"], file["OPTIONS"]) == ("/srv/keys.sqlite3", {"timeout": 20})


@pytest.mark.parametrize(
    "url",
    [
        "memcached://cache", "redis://", "redis:///0", "redis://cache:port", "redis://cache/keys",
        "redis://cache/0?sl=true", "redis://cache/0?socket_timeout=long", "redis://cache/0#1",
        "redis://one,redis://two", "redis://:hun,ter2@cache", "rediss://cache?ssl_cert_reqs=maybe",
        "unix://run/redis.sock",
    ],
)  # fmt: skip
def test_an_invalid_cache_url_is_refused(url):
    with pytest.raises(ValueError, match=r"[a-z]") as refused:
        database_urls.cache(url)
    assert "hun" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache", "redis://cache:6380/2", "rediss://user:p%2Cw@cache/0?ssl_ca_certs=/ca.pem",
        "unix:///run/redis.sock?db=1",
    ],
)  # fmt: skip
def test_a_valid_cache_url_is_accepted(url):
    database_urls.cache(url)


@pytest.mark.parametrize(
    ("url", "use_tls", "use_ssl", "port"),
    [
        ("smtp://mail.example", False, False, 25),
        ("smtp://mail.example:2525?tls=on", True, False, 2525),
        ("smtp://mail.example?ssl=1", False, True, 465),
        ("smtps://mail.example", False, True, 465),
        ("submission://mail.example", True, False, 587),
        ("submission://mail.example:465?ssl=yes", False, True, 465),
        ("submission://mail.example?ssl=off", True, False, 587),
    ],
)
def test_mail_has_the_tls_of_its_url(url, use_tls, use_ssl, port):
    found = database_urls.mail(url)
    assert (found["use_tls"], found["use_ssl"], found["port"]) == (use_tls, use_ssl, port)
    assert found["timeout"] == 10


def test_mail_has_the_user_and_password_of_its_url():
    found = database_urls.mail("submission://keys%40example.org:p%23w@mail.example?timeout=30")
    assert (found["username"], found["password"]) == ("keys@example.org", "p#w")
    assert (found["host"], found["timeout"]) == ("mail.example", 30)


@pytest.mark.parametrize(
    "url",
    [
        # dj-email-url reads each of these as SMTP without TLS.
        "smtp+tls://mail.example", "smtp://mail.example?starttls=1", "smtp://mail.example?tls=ture",
        "smtp://mail.example?TLS=1", "smtp://mail.example?ssl=on&ssl=off",
        "submission://mail.example?tls=off", "smtps://mail.example?ssl=0",
        "smtp://mail.example?ssl=on&tls=on", "console:", "smtp://", "mail.example",
        "smtp://keys:hun#ter2@mail.example", "smtp://keys:hun/ter2@mail.example",
        "smtp://mail.example?timeout=0",
    ],
)  # fmt: skip
def test_an_invalid_mail_url_is_refused(url):
    with pytest.raises(ValueError, match=r"[a-z]") as refused:
        database_urls.mail(url)
    assert "hun" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "is_safe"),
    [
        ("postgres:///keys", True),
        ("postgres://127.0.0.1/keys", True),
        ("postgres://[::1]/keys", True),
        ("postgres://localhost/keys", True),
        ("postgres:///keys?host=/run/postgresql", True),
        ("postgres://db.example/keys?sslmode=verify-full", True),
        ("postgres://db.example/keys?sslrootcert=system", True),
        ("postgres:///keys?host=db1,db2&sslmode=verify-full", True),
        ("postgres://db.example/keys", False),
        ("postgres://10.0.0.7/keys", False),
        ("postgres://db.example/keys?sslmode=require", False),
        # This verifies the certificate chain and not the host name.
        ("postgres://db.example/keys?sslmode=verify-ca", False),
        ("postgres://db.example/keys?sslmode=require&sslrootcert=system", False),
        ("postgres:///keys?host=/run/postgresql,db.example", False),
        ("postgres://localhost/keys?hostaddr=10.0.0.7", False),
        ("postgres:///keys?service=keys", False),
        ("sqlite:////srv/keys.sqlite3", True),
    ],
)
def test_a_database_on_another_host_needs_verified_tls(monkeypatch, url, is_safe):
    for name in ("PGHOST", "PGHOSTADDR", "PGSSLMODE", "PGSSLROOTCERT", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    assert database_urls.is_database_safe(database_urls.database(url)) == is_safe
    if url.startswith("postgres"):
        assert database_urls.is_listener_safe(database_urls.listener(url)) == is_safe


def test_the_environment_of_libpq_counts(monkeypatch):
    database = database_urls.database("postgres:///keys")
    monkeypatch.setenv("PGHOST", "db.example")
    assert not database_urls.is_database_safe(database)
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert database_urls.is_database_safe(database)
    assert database_urls.is_database_safe(database_urls.database("sqlite:////srv/keys.sqlite3"))


@pytest.mark.parametrize(
    ("url", "is_safe"),
    [
        ("redis://127.0.0.1/0", True),
        ("unix:///run/redis.sock", True),
        ("rediss://cache.example/0", True),
        ("rediss://cache.example/0?ssl_cert_reqs=required", True),
        ("redis://cache.example/0", False),
        ("rediss://cache.example/0?ssl_cert_reqs=none", False),
        ("rediss://cache.example/0?ssl_cert_reqs=optional", False),
        ("rediss://cache.example/0?ssl_check_hostname=false", False),
    ],
)
def test_a_cache_on_another_host_needs_verified_tls(url, is_safe):
    database_urls.cache(url)
    assert database_urls.is_cache_safe(url) == is_safe


@pytest.mark.parametrize(
    ("url", "is_safe"),
    [
        ("smtp://127.0.0.1:25", True),
        ("submission://mail.example", True),
        ("smtp://mail.example?ssl=on", True),
        ("smtp://mail.example", False),
        ("smtp://keys:pw@mail.example:587", False),
    ],
)
def test_mail_to_another_host_needs_tls(url, is_safe):
    assert database_urls.is_mail_safe(database_urls.mail(url)) == is_safe


def test_an_invalid_listener_url_is_refused_without_its_password():
    for conninfo in ("postgres://keys:hunter2@db/keys?sslmod=require", "hunter2", "host='"):
        with pytest.raises(ValueError, match="must look like") as refused:
            database_urls.listener(conninfo)
        assert "hunter2" not in str(refused.value)
