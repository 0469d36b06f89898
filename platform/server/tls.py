"""Certificates for `make run TLS=1`, issued by a local certificate authority."""

import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

import certifi
import trustme
from cryptography import x509

# Browsers accept 825 days from a private authority, and 398 from a public one.
LIFETIME = datetime.timedelta(days=397)
# A certificate with less than this left is renewed at start.
RENEWAL_MARGIN = datetime.timedelta(days=60)


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files: the server's certificate chain and key, and what clients verify them with."""

    chain: Path
    key: Path
    authority: Path
    bundle: Path
    """The local authority and the public ones: SSL_CERT_FILE replaces the default list."""


def certificate(directory: Path, *, names: set[str]) -> Certificate:
    """Return a certificate for `names` (host names and IPs), from an authority in `directory`.

    The authority is created once, so that users install it once. The certificate is replaced when
    it lacks a name or is about to expire.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = Certificate(
        chain=directory / "server.pem",
        key=directory / "server.key",
        authority=directory / "ca.pem",
        bundle=directory / "bundle.pem",
    )
    ca = _authority(files, directory / "ca.key")
    if not _is_usable(files.chain, names):
        now = datetime.datetime.now(tz=datetime.UTC)
        leaf = ca.issue_cert(
            *sorted(names),
            organization_name="ComfyUI keys",
            organization_unit_name="local certificate",
            not_before=now - datetime.timedelta(days=1),
            not_after=now + LIFETIME,
        )
        _write(files.key, leaf.private_key_pem.bytes(), 0o600)
        _write(files.chain, b"".join(pem.bytes() for pem in leaf.cert_chain_pems), 0o644)
    _write(files.bundle, files.authority.read_bytes() + Path(certifi.where()).read_bytes(), 0o644)
    return files


def _authority(files: Certificate, ca_key: Path) -> trustme.CA:
    if files.authority.exists() and ca_key.exists():
        return trustme.CA.from_pem(files.authority.read_bytes(), ca_key.read_bytes())
    ca = trustme.CA(organization_name="ComfyUI keys", organization_unit_name="local authority")
    _write(ca_key, ca.private_key_pem.bytes(), 0o600)
    _write(files.authority, ca.cert_pem.bytes(), 0o644)
    files.chain.unlink(missing_ok=True)
    return ca


def _is_usable(chain: Path, names: set[str]) -> bool:
    if not chain.exists():
        return False
    leaf = x509.load_pem_x509_certificate(chain.read_bytes())
    if leaf.not_valid_after_utc - RENEWAL_MARGIN < datetime.datetime.now(tz=datetime.UTC):
        return False
    alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    covered = set(alternatives.get_values_for_type(x509.DNSName))
    covered |= {str(address) for address in alternatives.get_values_for_type(x509.IPAddress)}
    return {_canonical(name) for name in names} <= covered


def _canonical(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a file atomically, at no time readable by more users than `mode` allows."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    draft.replace(path)
