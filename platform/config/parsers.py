"""Parse the values of settings: origins, hosts, networks, header names, folders, secret files.

The functions raise ValueError, or return a sentence, in words for the operator.
"""

import ipaddress
import os
import re
import secrets
import string
import tempfile
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

import idna

_HEADER = re.compile(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*")
_RANDOM_LENGTH = 20
_COLOR = re.compile(r"#([0-9a-f]{3}|[0-9a-f]{6})", re.IGNORECASE)
_LONGEST_NAME = 40
_IN_HOSTS = frozenset(f"{string.ascii_letters}{string.digits}-._[:]")
# Everything that browsers parse as an IPv4 address (WHATWG URL §3.5).
_NUMERIC = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Folders that other users and programs need to read.
_SYSTEM_FOLDERS = frozenset(
    map(
        Path,
        ["/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/media", "/mnt", "/opt", "/proc",
         "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/local", "/var",  # noqa: S108
         "/var/lib", "/var/log", "/var/tmp"],  # noqa: S108
    )
)  # fmt: skip


def folder_problem(path: Path) -> str | None:
    """Return why a folder can't be closed to all other users (mode 0700), or None if it can."""
    if path in _SYSTEM_FOLDERS:
        return "must be a folder of the platform's own, such as /srv/comfyui-keys."
    if path.exists() and not path.is_dir():
        return "must be a folder."
    return None


def get_or_create_secret_file(path: Path) -> str:
    """Return the secret in `path`; create the file (mode 0600) with a random one if there is none.

    Processes that start at the same time get the same secret: the file is linked into place whole,
    by the first of them.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A random name, not the pid: in a container, a process that died here had the same pid.
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        draft = Path(name)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(48))
            path.hardlink_to(draft)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text().strip()


def origin(url: str) -> tuple[str, str, int | None]:
    """Split an origin such as `https://keys.example:8443` into scheme, host and port.

    The host is as browsers send it. The port is None if it is the default port of the scheme.
    Raises ValueError for anything that is not an origin (RFC 6454 §4).
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("must be an address such as https://keys.example.org") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an address such as https://keys.example.org")
    if parts.path not in {"", "/"} or "?" in url or "#" in url or "@" in parts.netloc:
        raise ValueError("must be scheme, host and port alone, without a path")
    if port == 0:
        raise ValueError("must have a port from 1 to 65535, or none")
    try:
        name = host(parts.hostname)
    except ValueError as error:
        raise ValueError(f"must be an address with a host: {parts.hostname!r} {error}") from None
    return parts.scheme, name, None if port == _DEFAULT_PORTS[parts.scheme] else port


def host(name: str) -> str:
    """Return a host name or IP address as browsers send it: in lower case, without a port.

    Letters beyond ASCII become `xn--` (UTS #46, as in browsers). Raises ValueError for anything
    else, also for a pattern such as `*`: any client could then choose the Host header.
    """
    if "*" in name or name.startswith("."):
        raise ValueError("is a pattern: name each host.")
    known = _host_alone(_to_ascii(name).lower().removesuffix("."))
    if ":" in known:
        # The canonical form of IPv6, as browsers send it (RFC 5952).
        return str(ipaddress.IPv6Address(known))
    if _NUMERIC.fullmatch(known):
        try:
            return str(ipaddress.IPv4Address(known))
        except ValueError:
            raise ValueError("is no IP address as browsers write it.") from None
    if not all(known.split(".")):
        raise ValueError("is no host: it has an empty part between two dots.")
    return known


def _to_ascii(name: str) -> str:
    if name.isascii():
        return name
    try:
        return idna.encode(name, uts46=True).decode()
    except idna.IDNAError:
        raise ValueError("is no name that browsers know (IDNA).") from None


def _host_alone(name: str) -> str:
    """Return a host without brackets. Raises ValueError for a URL, a port and other characters."""
    try:
        found = urlsplit(f"//{in_brackets(name)}")
        is_host = found.netloc == in_brackets(found.hostname or "") and bool(found.hostname)
    except ValueError:
        is_host = False
    if not is_host or not set(name) <= _IN_HOSTS:
        raise ValueError("is no host: name it without scheme, port and path.")
    return found.hostname or ""


def network(text: str) -> str:
    """Return an IP address, or a network such as `10.0.0.0/8`, in its shortest form.

    Raises ValueError for anything else, and for a network that contains all IP addresses.
    """
    try:
        found = ipaddress.ip_network(text)
    except ValueError:
        try:
            within = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError("is neither an IP address nor a network such as 10.0.0.0/8.") from None
        raise ValueError(
            f"is an address with a prefix: write {within}, or {text.partition('/')[0]} alone."
        ) from None
    if found.prefixlen == 0:
        raise ValueError("is everybody.")
    mapped = getattr(found.network_address, "ipv4_mapped", None)
    if mapped and found.prefixlen > 96:
        found = ipaddress.ip_network((mapped, found.prefixlen - 96))
    return str(found.network_address if found.num_addresses == 1 else found)


def secret_header(name: str) -> str:
    """Return the name of a header whose last part is random, so that no client can guess it.

    Raises ValueError for anything else.
    """
    if not _HEADER.fullmatch(name):
        raise ValueError("must be the name of a header: letters and digits, with hyphens between.")
    random = name.rpartition("-")[2]
    if len(random) < _RANDOM_LENGTH or len(set(random.lower())) < _RANDOM_LENGTH // 2:
        raise ValueError(
            f"must end in at least {_RANDOM_LENGTH} random letters and digits, such as what "
            "`openssl rand -hex 16` prints: X-Client-IP-…"
        )
    return name


def site_name(text: str) -> str:
    """Return the name of a site with single blanks. Raises ValueError for one that can't be shown.

    It enters the sender of emails, so it has no character of an address in it.
    """
    if not text.isprintable() or set(text) & set('<>@"\\'):
        raise ValueError('must be one line without < > @ " and \\.')
    name = " ".join(text.split())
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"must have at most {_LONGEST_NAME} characters.")
    return name


def color(text: str) -> str:
    """Return a color as `#rrggbb`. Raises ValueError for anything but `#rgb` and `#rrggbb`."""
    if not _COLOR.fullmatch(text):
        raise ValueError("must be a color such as #c5e435: # and six digits from 0 to f.")
    digits = text[1:].lower()
    return f"#{digits if len(digits) == 6 else ''.join(digit * 2 for digit in digits)}"


def in_brackets(name: str) -> str:
    """Return a host as it is written in a URL: IPv6 addresses in brackets (RFC 3986 §3.2.2)."""
    return f"[{name}]" if ":" in name and not name.startswith("[") else name


def provider_url_problem(url: str, *, loopback: Collection[str]) -> str | None:
    """Return what is wrong with the URL of a login provider, or None.

    Client secrets and ID tokens are exchanged there: it must be https, except on this machine.
    """
    if problem := _url_problem(url, example="https://login.example.org/token"):
        return problem
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in loopback:
        return "must begin with https://, unless it is on this machine."
    return None


def collector_url_problem(url: str) -> str | None:
    """Return what is wrong with the URL of an OpenTelemetry collector, or None."""
    return _url_problem(url, example="https://collector.example.org:4318")


def _url_problem(url: str, *, example: str) -> str | None:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (raises ValueError for an invalid port)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        return f"must be an address such as {example}."
    if parts.query or parts.fragment or any(character.isspace() for character in url):
        return "must be an address without query, fragment and blanks."
    return None
