"""The URL of the platform, and whether a key may be sent there."""

import ipaddress
import os
import ssl
from typing import Final
from urllib.parse import urlsplit

import httpx

# No other names: a resolver may answer with another machine.
_OWN_NAMES: Final = {"localhost"}


def normalize(url: str) -> str:
    """Return `url` without a slash at the end. Raise ValueError for a URL of no platform."""
    if not isinstance(url, str):
        raise TypeError(f"The URL of the site must be a str, not {type(url).__name__}.")
    url = url.strip()
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(
            "The URL of the site must start with https:// or http:// and contain a host."
        )
    if parts.username is not None or parts.password is not None:
        raise ValueError("The URL of the site must not contain a user name or password.")
    if "?" in url or "#" in url:
        raise ValueError("The URL of the site must not contain ? or #.")
    return url.rstrip("/")


def is_private(url: str) -> bool:
    """Return whether a key that is sent to `url` is hidden from the network: https or loopback."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" or host in _OWN_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of `url`. Raise ValueError for an invalid port."""
    parts = urlsplit(url)
    default = 443 if parts.scheme == "https" else 80
    return parts.scheme, parts.hostname or "", parts.port or default


def ssl_context() -> ssl.SSLContext:
    """Return a context that trusts SSL_CERT_FILE or the public authorities, and the system's.

    The authority of a studio is installed on its machines. Raise ValueError if no certificates can
    be read from SSL_CERT_FILE or SSL_CERT_DIR.
    """
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    # httpx uses the folder only if no file is named, and OpenSSL ignores a missing one. Entries
    # are separated as in PATH.
    if folder and not file and not any(map(os.path.isdir, folder.split(os.pathsep))):
        raise ValueError(f"SSL_CERT_DIR is {folder!r}, which is not a folder.")
    try:
        context = httpx.create_ssl_context()
    except OSError as error:
        if not file:
            raise
        # OpenSSL's errors name a line of its source, and no file.
        is_ssls = isinstance(error, ssl.SSLError)
        reason = "it holds no certificates in PEM format" if is_ssls else error.strerror
        raise ValueError(f"SSL_CERT_FILE is {file!r}, which can't be used: {reason}.") from error
    context.load_default_certs()
    return context
