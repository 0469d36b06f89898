"""Certificates for `make run TLS=1`: a local authority, made once, and what it vouches for."""

import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

import certifi
import trustme
from cryptography import x509

# A browser that trusts a private authority takes up to 825 days; public ones get 398.
LIFETIME = datetime.timedelta(days=397)
# Renewed at a start within this long of its end.
MARGIN = datetime.timedelta(days=60)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files in PEM: what the server shows, and what clients trust it by."""

    chain: Path
    key: Path
    authority: Path
    bundle: Path
    """The authority and the public ones together, for SSL_CERT_FILE: that replaces all."""


def certificate(directory: Path, *, names: set[str]) -> Certificate:
    """A certificate for `names` (host names and IP addresses), from an authority in `directory`.

    The authority is made once and kept, so that it has to be trusted once; the certificate is
    made anew when it misses a name or nears its end.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made = Certificate(
        chain=directory / "server.pem",
        key=directory / "server.key",
        authority=directory / "ca.pem",
        bundle=directory / "bundle.pem",
    )
    ca_key = directory / "ca.key"
    if made.authority.exists() and ca_key.exists():
        ca = trustme.CA.from_pem(made.authority.read_bytes(), ca_key.read_bytes())
    else:
        ca = trustme.CA(organization_name="ComfyUI keys", organization_unit_name="local authority")
        _write(ca_key, ca.private_key_pem.bytes(), 0o600)
        _write(made.authority, ca.cert_pem.bytes(), 0o644)
        made.chain.unlink(missing_ok=True)
    if not _serves(made.chain, names):
        now = datetime.datetime.now(tz=datetime.UTC)
        leaf = ca.issue_cert(
            *sorted(names),
            organization_name="ComfyUI keys",
            organization_unit_name="local certificate",
            not_before=now - datetime.timedelta(days=1),
            not_after=now + LIFETIME,
        )
        _write(made.key, leaf.private_key_pem.bytes(), 0o600)
        _write(made.chain, b"".join(pem.bytes() for pem in leaf.cert_chain_pems), 0o644)
    _write(made.bundle, made.authority.read_bytes() + Path(certifi.where()).read_bytes(), 0o644)
    return made


def _serves(chain: Path, names: set[str]) -> bool:
    if not chain.exists():
        return False
    leaf = x509.load_pem_x509_certificate(chain.read_bytes())
    if leaf.not_valid_after_utc - MARGIN < datetime.datetime.now(tz=datetime.UTC):
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
    """Writes a whole file or none, never readable by more than `mode` says."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    draft.replace(path)
