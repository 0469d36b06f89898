"""The measured servers, with the databases and keys that each needs."""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from pathlib import Path

from bench import seed, servers
from bench.servers import HERE, ROOT, Postgres, Server, UnavailableError

BETTER_AUTH = HERE / "peers" / "better_auth"
# How many keys the refusals and the slower rows use in turn.
_FEW = 200
# More than the cached responses of two workers (apikeys/cache/middleware.py): each is a miss.
_FLOOD = 100_000


class ServerPool:
    """Start a server when a row first needs it; stop all at the end.

    folder: for logs, keys and sockets. keys: how many real keys rotate. cold: how many keys per
    round are validated once. sizes: of the tables of the rows "growth-…".
    """

    def __init__(
        self,
        postgres: Postgres,
        stack: ExitStack,
        folder: Path,
        *,
        keys: int,
        cold: list[int],
        sizes: dict[str, int],
    ) -> None:
        self._postgres = postgres
        self._stack = stack
        self._folder = folder
        self._number = keys
        self._cold = cold
        self._sizes = sizes
        self._tables: dict[int, str] = {}
        self._started: dict[str, Server | UnavailableError] = {}
        self._hash_keys()

    def server(self, name: str) -> Server:
        """Return the server of that name. Raise UnavailableError if it can't be started."""
        if name not in self._started:
            log_progress(f"Starting {name}")
            try:
                self._started[name] = self._stack.enter_context(self._start(name))
            except UnavailableError as error:
                self._started[name] = error
            except (RuntimeError, subprocess.CalledProcessError) as error:
                self._started[name] = UnavailableError(str(error).strip())
        found = self._started[name]
        if isinstance(found, UnavailableError):
            raise found
        return found

    def _start(self, name: str) -> AbstractContextManager[Server]:
        if name.startswith("growth-"):
            _growth, size, way = name.split("-")
            return self._platform(name, self._table(self._sizes[size]), cached=way == "cached")
        starts: dict[str, Callable[[], AbstractContextManager[Server]]] = {
            "ours": lambda: self._platform(name, self.ours, cached=True),
            "ours-off": lambda: self._platform(name, self.ours, cached=False),
            "ours-metrics": lambda: self._platform(name, self.ours, cached=True, METRICS="1"),
            "floor-wsgi": lambda: self._empty(name, {}),
            "floor-wsgi-1": lambda: self._empty(name, {"THREADS": "1"}),
            "floor-nginx": lambda: servers.nginx(name, self._folder / name),
            "better-auth": lambda: self._better_auth(name, {}),
            "better-auth-redis": self._better_auth_on_redis,
        }
        return starts.get(name, lambda: self._django(name))()

    # --- This platform ---

    def _hash_keys(self) -> None:
        """Write files of valid and deleted keys, and of tokens that were never issued."""
        log_progress(f"Hashing {self._number + _FEW} keys; later runs find them in var/bench/")
        keys = seed.kept_keys(self._number + _FEW)
        self._good, self._deleted = keys[: self._number], keys[self._number :]
        # A tenth, for rows where the first use of each key takes many milliseconds.
        self._some = self._good[: max(self._number // 10, 1)]
        self._write("valid", [key.text for key in self._good])
        self._write("sessions", [seed.site_token(key.text) for key in self._good])
        self._write("some", [key.text for key in self._some])
        self._write("hot", [self._good[0].text])
        self._write("deleted", [key.text for key in self._deleted])
        self._write("unknown", seed.unknown(_FEW))
        self._write("forged", seed.forged(self._number))
        self._write("flood", seed.forged(_FLOOD))

    @cached_property
    def ours(self) -> str:
        """The URL of a database with all real keys."""
        log_progress(f"Hashing {sum(self._cold)} new keys")
        fresh = seed.fresh_keys(sum(self._cold))
        url = self._postgres.create("ours")
        seed.fill(self.environment(url), [*self._good, *fresh], revoked=self._deleted)
        for round_, number in enumerate(self._cold):
            self._write(f"cold-{round_}", [key.text for key in fresh[:number]])
            del fresh[:number]
        seed.settle(url)
        return url

    @cached_property
    def _template(self) -> str:
        url = self._postgres.create("few")
        seed.fill(self.environment(url), self._some, revoked=[])
        return "few"

    def _table(self, size: int) -> str:
        """Return the URL of a database with `size` keys, a few of them real."""
        if size not in self._tables:
            like = self._template
            log_progress(f"Filling a table with {size} keys")
            self._tables[size] = self._postgres.create(f"growth-{size}", like=like)
            seed.grow(self._tables[size], size)
        return self._tables[size]

    def _platform(
        self, name: str, url: str, *, cached: bool, **variables: str
    ) -> AbstractContextManager[Server]:
        folder = self._folder / name
        return servers.platform(
            name,
            folder,
            {
                **self.environment(url),
                "VAR_DIR": str(folder),
                "VALIDATION_CACHE": str(int(cached)),
                **variables,
            },
        )

    def environment(self, url: str) -> dict[str, str]:
        """Return the settings of a platform on the database at `url`."""
        return {
            "DATABASE_URL": url,
            "KEY_PEPPER": seed.pepper(),
            "SECRET_KEY": self._secret,
            "VAR_DIR": str(self._folder / "seed"),
            # All load comes from one client IP: over its limit, 429 would be measured.
            "GUESSES_PER_MINUTE": "0",
        }

    @cached_property
    def _secret(self) -> str:
        return secrets.token_urlsafe(48)

    # --- Peers and floors ---

    def _empty(self, name: str, environment: dict[str, str]) -> AbstractContextManager[Server]:
        return servers.python(
            name, self._folder / name, "bench.peers.floors.wsgi:application", environment
        )

    def _django(self, name: str) -> AbstractContextManager[Server]:
        package = "floors" if name.startswith("floor") else name.replace("-", "_")
        environment = {
            "DATABASE_URL": self._postgres.create(name),
            "DJANGO_SETTINGS_MODULE": f"bench.peers.{package}.settings",
        }
        self._seed(name, [sys.executable, "-m", "bench.peers.seed"], environment)
        return servers.python(
            name, self._folder / name, "bench.peers.django:application", environment
        )

    def _better_auth_on_redis(self) -> AbstractContextManager[Server]:
        redis = self._stack.enter_context(servers.redis(self._folder / "redis"))
        return self._better_auth("better-auth-redis", {"REDIS_PORT": str(redis.port)})

    def _better_auth(
        self, name: str, environment: dict[str, str]
    ) -> AbstractContextManager[Server]:
        if not (BETTER_AUTH / "node_modules").is_dir():
            raise UnavailableError("Node or its packages are not there: see var/bench/tools.log")
        self._postgres.create(name)
        environment = {
            "PGHOST": self._postgres.socket_folder(),
            "PGUSER": "postgres",
            "PGDATABASE": name,
            "SECRET": self._secret,
            "NODE_ENV": "production",
            **environment,
        }
        script = BETTER_AUTH / "server.mjs"
        self._seed(name, ["node", str(script), "seed"], environment)
        return servers.node(name, self._folder / name, script, environment)

    def _seed(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        """Let a peer create its tables and keys, and write the keys that it prints to a file."""
        keys = subprocess.run(
            [*command, str(self._number)],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        ).stdout.split()
        if name == "oauth-toolkit":
            self._write("oauth-toolkit-own", [keys.pop(0)])
        self._write(name, keys)
        seed.settle(self._postgres.url(name))

    def _write(self, name: str, keys: list[str]) -> None:
        folder = self._folder / "keys"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join(keys))


def log_progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
