"""A cluster on this machine: three instances, and all that they share.

    HAProxy → three instances → PgBouncer → PostgreSQL → its streaming replica
                              → Valkey or Redis

Two instances listen on loopback, and the third one in a network of its own (tests.cluster.network).
"""

import secrets
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trustme

from tests.cluster.network import Network, network
from tests.cluster.parts import (
    DATABASE,
    Balancer,
    Cache,
    Instance,
    Part,
    PgBouncer,
    Postgres,
)
from tests.platforms import close_shell

# New keys of one account in an hour, of all instances together.
NEW_KEYS_PER_HOUR = 60


@dataclass
class Cluster:
    """Running parts. `primary` and `replica` change their roles with a promotion."""

    folder: Path
    network: Network
    primary: Postgres
    replica: Postgres
    pgbouncer: PgBouncer
    cache: Cache
    instances: list[Instance]
    balancer: Balancer
    trusting: ssl.SSLContext = field(repr=False)

    @property
    def parts(self) -> list[Part]:
        """Return all parts, in the order in which they can stop."""
        return [
            self.balancer,
            *self.instances,
            self.pgbouncer,
            self.cache,
            self.replica,
            self.primary,
        ]

    @property
    def remote(self) -> Instance:
        """Return the instance whose network can be cut."""
        return self.instances[-1]

    @property
    def authority(self) -> Path:
        """Return the certificate of the authority that signed the balancer's."""
        return self.folder / "authority.pem"

    def start_stores(self) -> None:
        self.primary.create()
        self.replica.follow(self.primary)
        self.cache.start()
        self.pgbouncer.lead_to(self.primary)
        self.pgbouncer.start()

    def start_instances(self) -> None:
        """Start all instances at once. The first one migrates; the others wait for it."""
        for instance in self.instances:
            instance.launch()
        with ThreadPoolExecutor(len(self.instances)) as threads:
            list(threads.map(Instance.wait_until_ready, self.instances))
        self.balancer.start()

    def wait_until_balanced(self) -> None:
        """Wait until all instances are ready, and HAProxy's health checks have seen it."""
        for instance in self.instances:
            instance.wait_until_ready()
        # Two checks, one a second.
        time.sleep(3)

    def swap_roles(self) -> None:
        self.primary, self.replica = self.replica, self.primary


@contextmanager
def cluster(folder: Path, **variables: str) -> Iterator[Cluster]:
    """Yield a cluster of which nothing runs yet; stop what runs at the end, by process ids.

    variables: settings of all instances, besides those of the cluster.
    """
    with ExitStack() as stack:
        link = stack.enter_context(network())
        host = link.outside
        primary, replica = Postgres("pg-1", folder, host), Postgres("pg-2", folder, host)
        pgbouncer, cache = PgBouncer(folder, host), Cache(folder, host)
        shared = {
            "PRODUCTION": "1",
            "DATABASE_URL": pgbouncer.url,
            "REPLICA_URL": replica.url,
            # The server of the two that accepts writes.
            "LISTEN_DATABASE_URL": f"postgresql://postgres@/{DATABASE}?host={host},{host}"
            f"&port={primary.port},{replica.port}&target_session_attrs=read-write"
            "&connect_timeout=2",
            # Debian 12's PgBouncer.
            "PREPARED_STATEMENTS": "0",
            "CACHE_URL": cache.url,
            "EMAIL_URL": "none",
            "SECRET_KEY_FILE": _secret(folder / "secret_key"),
            "KEY_PEPPER_FILE": _secret(folder / "key_pepper"),
            "ALLOW_UNVERIFIED_TLS": "DATABASE_URL,LISTEN_DATABASE_URL,REPLICA_URL,CACHE_URL",
            "TRUSTED_PROXIES": ",".join(dict.fromkeys(["127.0.0.1", host])),
            "PROXIES_DROP_UNDERSCORES": "1",
            # The load has one client IP, and asks for invalid keys all the time.
            "GUESSES_PER_MINUTE": "0",
            "NEW_KEYS_PER_HOUR": str(NEW_KEYS_PER_HOUR),
            "KEYS_PER_ACCOUNT": "1000",
            "KEYS_MAY_CREATE_KEYS": "1",
            "ARGON2_MEMORY_KIB": "8",
            "ARGON2_PASSES": "1",
            "WORKERS": "1",
        }
        instances = [
            Instance(f"instance-{number}", folder, where, shared, prefix=prefix)
            for number, where, prefix in (
                (1, "127.0.0.1", []),
                (2, "127.0.0.1", []),
                (3, link.inside, link.prefix),
            )
        ]
        certificate, trusting = _certificate(folder)
        balancer = Balancer(folder, certificate, instances)
        for instance in instances:
            instance.environment |= {"PUBLIC_URL": balancer.url, **variables}
        made = Cluster(
            folder, link, primary, replica, pgbouncer, cache, instances, balancer, trusting
        )
        try:
            yield made
        finally:
            for instance in instances:
                close_shell(instance.url)
            for part in made.parts:
                _end(part)


def _end(part: Part) -> None:
    try:
        part.stop()
    finally:
        part.kill()


def _secret(path: Path) -> str:
    """Write a new secret to a file that others can't read; return its path."""
    path.touch(mode=0o600)
    path.write_text(secrets.token_urlsafe(48))
    return str(path)


def _certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Write a certificate for loopback with its key; return its path, and who trusts it."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    path = folder / "certificate.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(path)
    path.chmod(0o600)
    authority.cert_pem.write_to_path(folder / "authority.pem")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return path, trusting
