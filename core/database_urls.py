"""Parse the URLs of database, cache and mail server, and tell whether they are safe.

Every part of a URL is used or refused with a message. No option is ignored: a misspelt `sslmode`
would silently weaken the connection.
"""

import ipaddress
import os
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import dj_database_url
import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

_POSTGRESQL: Final = ("postgres", "postgresql", "pgsql")
# Options of psycopg and of Django's backend, besides those of libpq.
_POSTGRESQL_OPTIONS: Final = frozenset(
    {"currentSchema", "isolation_level", "prepare_threshold", "server_side_binding"}
)
# Set by other parts of the URL, or by the platform.
_RESERVED: Final = frozenset({"client_encoding", "dbname", "fallback_application_name"})
_SSLMODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_YES: Final = frozenset({"1", "true", "yes", "on"})
_NO: Final = frozenset({"0", "false", "no", "off"})
_ENCODE: Final = "write special characters of a password as %23 for #, %2F for / and %40 for @."


def database(url: str) -> dict[str, Any]:
    """Return Django's settings for `url`. Raise ValueError, with a message without the password."""
    if url in {"sqlite://:memory:", "sqlite:///:memory:", "sqlite://"}:
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "OPTIONS": {}}
    parts, options = _split(url)
    if parts.scheme == "sqlite":
        _check_sqlite(parts, options)
        seconds = {name: _seconds(name, value) for name, value in options.items()}
        return {**dj_database_url.parse(url), "OPTIONS": seconds}
    if parts.scheme not in _POSTGRESQL:
        raise ValueError(
            "must begin with sqlite:/// or postgres://; no other kind of database is supported."
        )
    _check_postgresql(parts, options)
    # dj_database_url returns the engine of postgresql for all three schemes.
    return {"OPTIONS": {}, **dj_database_url.parse(url)}


def _check_sqlite(parts: SplitResult, options: dict[str, str]) -> None:
    if parts.netloc or len(parts.path) < 2:
        raise ValueError("must look like sqlite:////folder/file: four slashes, then the path.")
    if unknown := sorted(set(options) - {"timeout"}):
        raise ValueError(f"has {unknown[0]!r}; SQLite has one option here, timeout.")


def _check_postgresql(parts: SplitResult, options: dict[str, str]) -> None:
    if not unquote(parts.path[1:]):
        raise ValueError("names no database: postgres://user:password@host/name")
    if "/" in parts.path[1:] or "@" in parts.path:
        raise ValueError(f"can't be understood: {_ENCODE}")
    libpq = {option.keyword.decode() for option in Conninfo.get_defaults()}
    for name, value in options.items():
        if name not in libpq | _POSTGRESQL_OPTIONS or name in _RESERVED:
            raise ValueError(f"has an option that PostgreSQL does not know: {name!r}.")
        if name == "sslmode" and value not in _SSLMODES:
            raise ValueError(f"has sslmode={value!r}, which is none of {', '.join(_SSLMODES)}.")
    for name, given in (
        ("host", parts.hostname),
        ("port", parts.port),
        ("user", parts.username),
        ("password", parts.password),
    ):
        if given and name in options:
            raise ValueError(f"names the {name} twice: before the ? and after it.")


def listener(conninfo: str) -> dict[str, Any]:
    """Parse a URL or `name=value …` for libpq. Raise ValueError, without the password."""
    try:
        return dict(conninfo_to_dict(conninfo))
    except psycopg.Error:
        raise ValueError(
            "must look like postgres://user:password@host/name, with options that PostgreSQL knows."
        ) from None


def cache(url: str) -> None:
    """Raise ValueError, without the password, unless `url` is one of Redis or Valkey."""
    # One piece, although long: one message after the other.
    parts, _options = _split(url)
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("must look like redis://127.0.0.1:6379/0 (Redis or Valkey).")
    if any(separator in url for separator in ",;"):
        # Django splits such a URL into several servers, and reads from any of them.
        raise ValueError("names more than one server, or has a comma or semicolon to write as %2C.")
    number = parts.path[1:]
    if parts.scheme != "unix" and number and not number.isdigit():
        raise ValueError(f"has {number!r} for the number of a database, as 0 in redis://host/0.")
    if parts.scheme != "unix" and not parts.hostname:
        raise ValueError("names no host.")
    if parts.scheme == "unix" and parts.netloc.rpartition("@")[2]:
        raise ValueError("must look like unix:///run/redis/redis.sock: three slashes.")
    # Not at the top, as in core.cache.redis_error.
    import redis

    try:
        # This parses the options and does not connect.
        redis.ConnectionPool.from_url(url).make_connection()
    except (TypeError, ValueError, redis.RedisError):
        raise ValueError("has an option, or a value of one, that is not known.") from None


def mail(url: str) -> dict[str, Any]:
    """Return options of Django's SMTP backend. Raise ValueError, without the password."""
    parts, options = _split(url)
    if parts.scheme not in {"smtp", "smtps", "submission"} or not parts.hostname:
        raise ValueError(
            "must look like submission://user:password@mail.example.org (STARTTLS, port 587) "
            "or smtp://user:password@mail.example.org:465?ssl=on."
        )
    if parts.path not in {"", "/"}:
        raise ValueError(f"has a path; {_ENCODE}")
    if unknown := sorted(set(options) - {"ssl", "tls", "timeout"}):
        raise ValueError(f"has {unknown[0]!r}; there are ssl, tls and timeout.")
    use_ssl, use_tls = _mail_tls(parts.scheme, options)
    return {
        "host": parts.hostname,
        "port": parts.port or (465 if use_ssl else 587 if parts.scheme == "submission" else 25),
        "username": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "use_tls": use_tls,
        "use_ssl": use_ssl,
        "timeout": _seconds("timeout", options.get("timeout", "10")),
    }


def _mail_tls(scheme: str, options: dict[str, str]) -> tuple[bool, bool]:
    """Return whether to use TLS from the start, and whether to use STARTTLS."""
    given = {name: _boolean(name, options[name]) for name in ("ssl", "tls") if name in options}
    use_ssl = given.get("ssl", scheme == "smtps")
    use_tls = given.get("tls", scheme == "submission" and not use_ssl)
    if use_ssl and use_tls:
        raise ValueError("asks for ssl and for tls (STARTTLS): a server has one of them.")
    if scheme in {"smtps", "submission"} and not (use_ssl or use_tls):
        raise ValueError(f"turns off TLS, which {scheme}:// asks for: write smtp://.")
    return use_ssl, use_tls


# --- TLS -------------------------------------------------------------------------------------


def is_database_safe(settings: dict[str, Any]) -> bool:
    """Return whether the connection can't be read or intercepted on a network.

    settings: Django's, as `database` returns them.
    """
    if settings["ENGINE"].endswith("sqlite3"):
        return True
    options = settings.get("OPTIONS", {})
    return is_listener_safe({**options, "host": settings.get("HOST") or options.get("host")})


def is_listener_safe(parameters: dict[str, Any]) -> bool:
    """Return the same for libpq's parameters. libpq takes missing ones from the environment."""
    mode = parameters.get("sslmode") or os.environ.get("PGSSLMODE")
    root = parameters.get("sslrootcert") or os.environ.get("PGSSLROOTCERT")
    if mode == "verify-full" or (root == "system" and mode is None):
        return True
    # A service file may name any host.
    if parameters.get("service") or os.environ.get("PGSERVICE"):
        return False
    hosts = [
        str(parameters.get(name) or os.environ.get(variable) or "")
        for name, variable in (("host", "PGHOST"), ("hostaddr", "PGHOSTADDR"))
    ]
    return all(map(_is_local, ",".join(hosts).split(",")))


def is_cache_safe(url: str) -> bool:
    parts, options = _split(url)
    if parts.scheme == "unix" or _is_local(parts.hostname or ""):
        return True
    return (
        parts.scheme == "rediss"
        and options.get("ssl_cert_reqs", "required") == "required"
        and options.get("ssl_check_hostname", "1").lower() in _YES
    )


def is_mail_safe(options: dict[str, Any]) -> bool:
    """Return whether TLS is used: Django then verifies certificate and name."""
    return bool(options["use_tls"] or options["use_ssl"] or _is_local(options["host"]))


def is_collector_safe(url: str) -> bool:
    """Return whether traces travel over verified TLS, or stay on this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or _is_local(parts.hostname or "")


def _is_local(host: str) -> bool:
    """Return whether a host is local: a socket (libpq's default) or loopback."""
    if not host or host.startswith(("/", "@")) or host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# --- Parts of a URL --------------------------------------------------------------------------


def _split(url: str) -> tuple[SplitResult, dict[str, str]]:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (raises for an invalid port)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        # Python's message quotes the supposed port, which may be the end of a password.
        raise ValueError(f"can't be understood: {_ENCODE}") from None
    if "#" in url:
        raise ValueError(f"has a # in it; {_ENCODE}")
    if repeated := _repeated(name for name, _value in pairs):
        raise ValueError(f"has the option {repeated!r} twice.")
    if blank := next((name for name, value in pairs if not value), None):
        raise ValueError(f"has the option {blank!r} without a value.")
    return parts, dict(pairs)


def _repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _boolean(name: str, value: str) -> bool:
    if value.lower() in _YES:
        return True
    if value.lower() in _NO:
        return False
    raise ValueError(f"has {name}={value!r}: write on or off.")


def _seconds(name: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:6]) <= 3600:
        raise ValueError(f"has {name}={value!r}: write seconds, from 1 to 3600.")
    return int(value)
