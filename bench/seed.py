"""Keys and rows for the benchmarks, hashed at the cost of a deployment.

Argon2id is slow on purpose, so hashes are kept between runs in var/bench/, with plaintext keys that
are valid only in the databases of the benchmarks.

    DATABASE_URL=… KEY_PEPPER=… python -m bench.seed FILE

fills a migrated database with the keys of FILE; it is a process of its own because of Django.
"""

import json
import os
import secrets
import subprocess
import sys
import time
import zlib
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from itertools import batched
from pathlib import Path
from typing import Any

import psycopg

from apikeys import tokens
from apikeys.hashing import Cost, Hasher

ROOT = Path(__file__).parents[1]
VAR = ROOT / "var" / "bench"
# The defaults of ARGON2_MEMORY_KIB, ARGON2_PASSES and ARGON2_LANES.
COST = Cost(memory_kib=19456, passes=2, lanes=1)
_PROCESSES = 2
# A protected site, with a session for each key.
SITE = "comfy.example.com"
_KEYS_PER_ACCOUNT = 20


@dataclass(frozen=True)
class Key:
    text: str
    encoded: str

    @property
    def public_id(self) -> str:
        return self.text[len(tokens.PREFIX) :][:12]


def pepper() -> str:
    """Return the pepper of the benchmarks, the same in each run."""
    path = VAR / "pepper"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(48))
    return path.read_text()


def kept_keys(number: int) -> list[Key]:
    """Return `number` keys, hashed in this run or an earlier one."""
    name = f"keys-m{COST.memory_kib}-t{COST.passes}-p{COST.lanes}-{zlib.crc32(pepper().encode())}"
    path = VAR / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [Key(**json.loads(line)) for line in lines[:number]]
    if len(kept) < number:
        path.touch(mode=0o600)
        with path.open("a") as file:
            for key in _hashed(number - len(kept)):
                kept.append(key)
                file.write(json.dumps(asdict(key)) + "\n")
    return kept


def fresh_keys(number: int) -> list[Key]:
    """Return `number` new keys: caches of this machine may hold those of earlier runs."""
    return list(_hashed(number))


def unknown(number: int) -> list[str]:
    """Return tokens with a valid tag and no row, as of deleted accounts."""
    tag_key = _hasher().tag_keys[0]
    return [tokens.make(tag_key=tag_key).reveal() for _ in range(number)]


def forged(number: int) -> list[str]:
    """Return tokens with a correct format and CRC and a wrong tag."""
    other_key = secrets.token_bytes(32)
    return [tokens.make(tag_key=other_key).reveal() for _ in range(number)]


def site_token(key: str) -> str:
    """Return the token of the session that belongs to a key: the same in each process."""
    return urlsafe_b64encode(sha256(key.encode()).digest()).rstrip(b"=").decode()


def fill(environment: Mapping[str, str], keys: Iterable[Key], *, revoked: Iterable[Key]) -> None:
    """Migrate the database and insert these keys."""
    variables = {**os.environ, **environment}
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity=0"],
        cwd=ROOT,
        env=variables,
        check=True,
    )
    rows = {"keys": [asdict(key) for key in keys], "revoked": [asdict(key) for key in revoked]}
    subprocess.run(
        [sys.executable, "-m", "bench.seed"],
        cwd=ROOT,
        env=variables,
        check=True,
        input=json.dumps(rows).encode(),
    )


def grow(url: str, number: int) -> None:
    """Add rows until there are `number` keys: copies with hashes that no token matches."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM apikeys_apikey").fetchone()
        missing = number - (row[0] if row else 0)
        if missing > 0:
            connection.execute(
                _FILLERS, {"accounts": -(-missing // _KEYS_PER_ACCOUNT), "of": missing}
            )
    settle(url)


def settle(url: str) -> None:
    """Vacuum now, or autovacuum would run during a measurement."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")


# Copies of a row that the models wrote, so that the statement need not name all columns.
_FILLERS = """
    WITH accounts AS (
        INSERT INTO accounts_user
        SELECT made.* FROM accounts_user AS one, generate_series(1, %(accounts)s) AS i,
        jsonb_populate_record(one, jsonb_build_object(
            'id', md5('account ' || i)::uuid,
            'email', 'filler' || i || '@example.org'
        )) AS made
        WHERE one.email = (SELECT min(email) FROM accounts_user)
    )
    INSERT INTO apikeys_apikey
    SELECT made.* FROM apikeys_apikey AS one, generate_series(1, %(of)s) AS i,
    jsonb_populate_record(one, jsonb_build_object(
        'id', gen_random_uuid(),
        'owner_id', md5('account ' || (i - 1) %% %(accounts)s + 1)::uuid,
        'name', 'filler ' || i,
        'folded_name', 'filler ' || i,
        'public_id', left(md5('key ' || i), 12),
        'nonce', gen_random_uuid(),
        'created_at', now() - i * interval '1 second'
    )) AS made
    WHERE one.public_id = (SELECT min(public_id) FROM apikeys_apikey)
    -- Two ids in ten million may be the same.
    ON CONFLICT DO NOTHING
"""


def _hashed(number: int) -> Iterable[Key]:
    with ProcessPoolExecutor(_PROCESSES) as pool:
        yield from pool.map(partial(_hash_one, pepper()), range(number), chunksize=25)


def _hash_one(pepper: str, _number: int) -> Key:
    hasher = _hasher(pepper)
    token = tokens.make(tag_key=hasher.tag_keys[0])
    return Key(token.reveal(), hasher.hash(token, wait=60))


_hashers: dict[str, Hasher] = {}


def _hasher(of: str | None = None) -> Hasher:
    """Return the hasher; created once per process, because it costs one Argon2 pass."""
    of = of or pepper()
    if of not in _hashers:
        _hashers[of] = Hasher(peppers=[of], cost=COST, concurrency=1)
    return _hashers[of]


def _insert(keys: list[Key], revoked: list[Key]) -> None:
    from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY
    from django.utils import timezone

    from accounts.models import User
    from accounts.sessions import SessionStore, stored_key
    from apikeys.models import APIKey, Reason
    from sites.models import Access, ProtectedSite, SiteSession
    from sites.sign_in import digest_of

    site, _is_new = ProtectedSite.objects.get_or_create(
        authority=SITE, defaults={"origin": f"https://{SITE}", "access": Access.EVERYONE}
    )
    ended = {"revoked_at": timezone.now(), "revoked_reason": Reason.DELETED_BY_OWNER}
    rows: list[tuple[Key, dict[str, Any]]] = [(key, {}) for key in keys]
    rows += [(key, ended) for key in revoked]
    for batch in batched(rows, _KEYS_PER_ACCOUNT):
        owner = User.objects.create(email=f"{batch[0][0].public_id}@example.org", name="Alice")
        APIKey.objects.bulk_create(
            APIKey(
                owner=owner,
                name=f"key {i}",
                folded_name=f"key {i}",
                public_id=key.public_id,
                encoded=key.encoded,
                **fields,
            )
            for i, (key, fields) in enumerate(batch)
        )
        session = SessionStore()
        session[SESSION_KEY] = str(owner.pk)
        session[HASH_SESSION_KEY] = owner.get_session_auth_hash()
        session["began_at"] = time.time()
        session.create()
        SiteSession.objects.bulk_create(
            SiteSession(
                digest=digest_of(site_token(key.text)),
                site=site,
                owner=owner,
                session_key=stored_key(session.session_key),
            )
            for key, _fields in batch
        )


def main() -> None:
    import django
    from django.db import transaction

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    rows = json.load(sys.stdin)
    with transaction.atomic():
        _insert([Key(**row) for row in rows["keys"]], [Key(**row) for row in rows["revoked"]])


if __name__ == "__main__":
    main()
