"""The verified-hash cache in a process, on a host and in Redis, and under load."""

import functools
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import argon2
import pytest
import redis
from django.conf import settings as django_settings
from django.core.cache import caches
from django.db import connection
from pytest_django import DjangoAssertNumQueries
from pytest_django.fixtures import Settings

from apikeys import services, tokens
from apikeys.cache import verified
from apikeys.key_hasher import key_hasher
from apikeys.models import APIKey, Reason
from apikeys.services import VerdictCode
from apikeys.tokens import Token
from core.exceptions import HashingBusy
from tests.conftest import Issue
from tests.platforms import ROOT

DAY = 24 * 60 * 60


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hashes that tokens were verified against: one per Argon2id pass."""
    seen: list[str] = []
    real = argon2.PasswordHasher.verify

    def counted(self: argon2.PasswordHasher, encoded: str, secret: bytes) -> bool:
        seen.append(encoded)
        return real(self, encoded, secret)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", counted)
    return seen


def code_of(token: Token, **waits: float) -> VerdictCode:
    return services.validate(token.reveal(), **waits).code


def wrong_secret(key: APIKey, number: int = 0, *, tag_key: bytes | None = None) -> str:
    """All of it is right but the secret. With our tag key, which others do not have."""
    body = f"comfyui-{key.public_id}{number:036x}"
    tagged = body + tokens._tag(body, tag_key or key_hasher().tag_keys[0])
    return tagged + tokens._crc(tagged)


def entry_of(token: Token) -> tuple[bytes, APIKey]:
    """Return a token's digest and its current row."""
    return key_hasher().digest(token), APIKey.objects.get(public_id=token.public_id)


def rehash(token: Token) -> None:
    """The row's hash is another one of the same token, as after a change of cost."""
    APIKey.objects.filter(public_id=token.public_id).update(
        encoded=key_hasher().hash(token, wait=10)
    )


# --- A process, and the machine that it is on -------------------------------------------------


@pytest.fixture
def shared(settings: Settings, tmp_path: Path) -> Path:
    """The folder of the shared verified-hash cache."""
    settings.SHARED_VERIFIED_FOLDER = tmp_path
    return tmp_path


def table_in(folder: Path) -> Path:
    (found,) = folder.glob("comfyui-keys-*")
    return found


def test_a_process_takes_one_pass_for_a_token(issue: Issue, passes: list[str]) -> None:
    token, other = issue("one")[1], issue("two")[1]
    assert [code_of(token) for _ in range(5)] == [VerdictCode.VALID] * 5
    assert len(passes) == 1
    assert code_of(other) is VerdictCode.VALID
    assert len(passes) == 2


def test_without_a_shared_cache_a_restart_costs_a_pass(issue: Issue, passes: list[str]) -> None:
    """So that the tests below show what they seem to."""
    token = issue()[1]
    code_of(token)
    verified.clear()
    code_of(token)
    assert len(passes) == 2


def test_a_restart_costs_no_pass(issue: Issue, passes: list[str], shared: Path) -> None:
    token = issue()[1]
    code_of(token)
    for _ in range(3):
        verified.clear()
        assert [code_of(token) for _ in range(2)] == [VerdictCode.VALID] * 2
    assert len(passes) == 1


def test_a_verified_key_is_refused_once_it_is_revoked(
    issue: Issue, passes: list[str], shared: Path
) -> None:
    key, token = issue()
    code_of(token)
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    verified.clear()
    assert code_of(token) is VerdictCode.REVOKED
    assert len(passes) == 1


@pytest.mark.parametrize("restarted", [False, True], ids=["same process", "restarted"])
def test_a_new_hash_needs_a_new_pass(
    issue: Issue, passes: list[str], shared: Path, restarted: bool
) -> None:
    token = issue()[1]
    code_of(token)
    rehash(token)
    if restarted:
        verified.clear()
    assert code_of(token) is VerdictCode.VALID
    assert len(passes) == 2
    verified.clear()
    assert code_of(token) is VerdictCode.VALID
    assert len(passes) == 2, "the new hash is remembered in the place of the former"


@pytest.mark.parametrize("restarted", [False, True], ids=["same process", "restarted"])
def test_a_verified_hash_is_not_valid_for_another_secret(
    issue: Issue, shared: Path, restarted: bool
) -> None:
    key, token = issue("one")
    other, _other_token = issue("two")
    code_of(token)
    APIKey.objects.filter(pk=key.pk).update(encoded=other.encoded)
    if restarted:
        verified.clear()
    assert code_of(token) is VerdictCode.NOT_FOUND


def test_another_pepper_needs_a_new_pass(
    issue: Issue, passes: list[str], shared: Path, settings: Settings
) -> None:
    token = issue()[1]
    code_of(token)
    former = settings.KEY_PEPPER
    settings.KEY_PEPPER = "n" * 40
    settings.KEY_PEPPER_FALLBACKS = [former]
    assert code_of(token) is VerdictCode.VALID
    assert len(passes) == 2
    verified.clear()
    assert code_of(token) is VerdictCode.VALID
    assert len(passes) == 2, "and is made anew under the new one"
    assert len(list(shared.iterdir())) == 2, "each pepper has a table of its own"


def test_namespaces_are_separate(issue: Issue, shared: Path) -> None:
    digest, key = entry_of(issue()[1])
    verified.add_verified(digest, key.encoded, namespace="here")
    verified.clear()
    assert not verified.is_verified(digest, key.encoded, namespace="there")
    assert verified.is_verified(digest, key.encoded, namespace="here")


def test_a_wrong_secret_is_never_accepted(issue: Issue, shared: Path) -> None:
    """Before the right one was verified, after it, and when the process was restarted since."""
    key, token = issue()
    wrong = wrong_secret(key)
    assert services.validate(wrong).code is VerdictCode.NOT_FOUND
    assert code_of(token) is VerdictCode.VALID
    assert services.validate(wrong).code is VerdictCode.NOT_FOUND
    verified.clear()
    assert services.validate(wrong).code is VerdictCode.NOT_FOUND
    assert code_of(token) is VerdictCode.VALID


def test_the_shared_file_reveals_no_token(issue: Issue, shared: Path) -> None:
    token = issue()[1]
    code_of(token)
    digest, key = entry_of(token)
    table = table_in(shared)
    assert table.stat().st_mode & 0o777 == 0o600
    assert_tells_nothing(table.read_bytes() + table.name.encode(), token, digest, key)


def test_overwriting_the_shared_file_verifies_nothing(
    issue: Issue, passes: list[str], shared: Path
) -> None:
    key, token = issue()
    code_of(token)
    table = table_in(shared)
    with table.open("r+b") as file:
        file.write(os.urandom(table.stat().st_size))
    verified.clear()
    assert services.validate(wrong_secret(key)).code is VerdictCode.NOT_FOUND
    assert code_of(token) is VerdictCode.VALID
    assert len(passes) == 3


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def open_to_all(folder: Path) -> None:
    table_in(folder).chmod(0o666)


def a_link(folder: Path) -> None:
    table = table_in(folder)
    table.symlink_to(table.rename(folder / "elsewhere"))


@pytest.mark.parametrize("spoil", [no_folder, open_to_all, a_link])
def test_an_unusable_shared_file_costs_a_pass_and_is_logged(
    issue: Issue,
    passes: list[str],
    shared: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], None],
) -> None:
    key, token = issue()
    code_of(token)
    spoil(shared)
    verified.clear()
    assert [code_of(token) for _ in range(3)] == [VerdictCode.VALID] * 3
    assert services.validate(wrong_secret(key)).code is VerdictCode.NOT_FOUND
    assert len(passes) == 3
    result = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(result) == 1, "once a process, not once a validation"
    assert "can't share" in result[0].getMessage()


# --- Processes of their own -------------------------------------------------------------------

_ELSEWHERE = """
import json, sys
from pathlib import Path
import argon2, django
django.setup()
from django.conf import settings
from django.db import connection
from apikeys import services

given = json.load(sys.stdin)
settings.SHARED_VERIFIED_FOLDER = Path(given["folder"]) if given["folder"] else None
passes = []
real = argon2.PasswordHasher.verify
argon2.PasswordHasher.verify = lambda *args: passes.append(1) or real(*args)
codes = [services.validate(token).code for token in given["tokens"]]
connection.close()
if connection.vendor == "postgresql":
    connection.close_pool()
print(json.dumps([codes, len(passes)]))
"""


@dataclass(frozen=True)
class Elsewhere:
    """What another process of the platform returned for the tokens that it validated."""

    codes: list[str]
    passes: int


def elsewhere(settings: Settings, *presented: str) -> Elsewhere:
    """Validates in a process that has just started: with this one's stores, and own memory."""
    name = connection.settings_dict["NAME"]
    database = (
        f"sqlite:///{name}"
        if connection.vendor == "sqlite"
        else os.environ["DATABASE_URL"].replace("/postgres?", f"/{name}?")
    )
    variables = {
        "PATH": os.environ["PATH"],
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "VAR_DIR": str(settings.VAR),
        "DATABASE_URL": database,
        "KEY_PEPPER": settings.KEY_PEPPER,
        "ARGON2_MEMORY_KIB": str(settings.ARGON2_MEMORY_KIB),
        "ARGON2_PASSES": str(settings.ARGON2_PASSES),
        "USAGE_FLUSH_INTERVAL": "0",
        **({"CACHE_URL": settings.CACHE_URL} if settings.CACHE_URL else {}),
    }
    folder = settings.SHARED_VERIFIED_FOLDER
    ended = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE],
        cwd=ROOT,
        env=variables,
        input=json.dumps({"folder": str(folder) if folder else None, "tokens": presented}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return Elsewhere(*json.loads(ended.stdout))


@pytest.mark.django_db(transaction=True)
def test_without_a_shared_cache_each_process_takes_a_pass(issue: Issue, settings: Settings) -> None:
    """So that the tests below show what they seem to."""
    token = issue()[1]
    code_of(token)
    assert elsewhere(settings, token.reveal()) == Elsewhere(["VALID"], 1)


def each_believes_the_other(issue: Issue, settings: Settings, passes: list[str]) -> None:
    (key, token), (_cold, cold_token) = issue("one"), issue("two")
    code_of(token)
    seen = elsewhere(
        settings, token.reveal(), cold_token.reveal(), cold_token.reveal(), wrong_secret(key)
    )
    assert seen == Elsewhere(["VALID", "VALID", "VALID", "NOT_FOUND"], 2)
    assert code_of(cold_token) is VerdictCode.VALID
    assert len(passes) == 1, "what the other verified is known here"


@pytest.mark.django_db(transaction=True)
def test_workers_of_a_host_share_verified_hashes(
    issue: Issue, settings: Settings, passes: list[str], shared: Path
) -> None:
    each_believes_the_other(issue, settings, passes)


# --- Several hosts ----------------------------------------------------------------------------


class Store:
    """A Redis or Valkey of the tests' own: a Unix socket, nothing on the network or the disk."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("valkey-server") or shutil.which("redis-server")
        if program is None:
            pytest.fail(
                "Neither valkey-server nor redis-server is on PATH, and the tests of CACHE_URL "
                "need one of them. Install it (Debian: apt-get install valkey-server)."
            )
        socket = folder / "socket"
        self.url = f"unix://{socket}"
        self.client: Any = redis.Redis(unix_socket_path=str(socket))
        arguments = ["--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(
            [program, *map(str, arguments), "--dir", str(folder), "--logfile", str(folder / "log")],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                self.client.ping()
            except redis.ConnectionError:
                assert self.process.poll() is None, f"{program} ended at its start."
                assert time.monotonic() < deadline, f"{program} does not answer."
                time.sleep(0.05)
            else:
                return

    def close(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(timeout=30)


@contextmanager
def started() -> Iterator[Store]:
    # A socket's path may have no more than 107 characters.
    with tempfile.TemporaryDirectory(prefix="cache-") as folder:
        store = Store(Path(folder))
        try:
            yield store
        finally:
            store.close()


@pytest.fixture(scope="module")
def long_running_store() -> Iterator[Store]:
    with started() as store:
        yield store


@functools.cache
def as_set(url: str) -> dict[str, Any]:
    """CACHES as the platform's own settings have it with CACHE_URL."""
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "import json; from config import settings; print(json.dumps(settings.CACHES))",
        ],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "VAR_DIR": os.environ["VAR_DIR"], "CACHE_URL": url},
        capture_output=True,
        check=True,
    ).stdout
    made: dict[str, Any] = json.loads(result)
    return made


def use_redis(settings: Settings, url: str) -> None:
    settings.CACHE_URL = url
    settings.CACHES = as_set(url)


def disconnect() -> None:
    """Close the connections that this thread has to the store."""
    store: Any = caches["shared"]
    for pool in store._cache._pools.values():
        pool.disconnect()


@pytest.fixture
def redis_client(settings: Settings, long_running_store: Store) -> Iterator[Any]:
    """Use Redis, as several hosts do; return a client of it."""
    long_running_store.client.flushall()
    use_redis(settings, long_running_store.url)
    yield long_running_store.client
    disconnect()


@pytest.mark.django_db(transaction=True)
def test_hosts_share_verified_hashes(
    issue: Issue, settings: Settings, passes: list[str], redis_client: Any
) -> None:
    each_believes_the_other(issue, settings, passes)


@pytest.mark.django_db(transaction=True)
def test_another_host_takes_a_pass_after_a_new_hash(
    issue: Issue, settings: Settings, redis_client: Any
) -> None:
    token = issue()[1]
    code_of(token)
    rehash(token)
    assert elsewhere(settings, token.reveal()) == Elsewhere(["VALID"], 1)
    assert elsewhere(settings, token.reveal()) == Elsewhere(["VALID"], 0)


def test_an_entry_from_redis_is_stored_on_the_host(
    issue: Issue, passes: list[str], redis_client: Any, shared: Path
) -> None:
    token = issue()[1]
    code_of(token)
    table_in(shared).unlink()
    verified.clear()
    assert code_of(token) is VerdictCode.VALID
    redis_client.flushall()
    verified.clear()
    assert code_of(token) is VerdictCode.VALID
    assert len(passes) == 1


@pytest.mark.parametrize("known_to", ["shared", "redis"])
def test_a_hash_of_a_former_cost_is_renewed_despite_the_cache(
    issue: Issue, settings: Settings, request: pytest.FixtureRequest, known_to: str
) -> None:
    """A cost is raised by a restart: what outlives that must not keep the cheap hashes in use."""
    request.getfixturevalue("redis_client" if known_to == "redis" else known_to)
    key, token = issue()
    code_of(token)
    settings.ARGON2_MEMORY_KIB = 16
    assert code_of(token) is VerdictCode.VALID
    key.refresh_from_db()
    assert "$m=16,t=1,p=1,keyid=" in key.encoded


def proofs_in(redis_client: Any) -> list[bytes]:
    """The names of all in the store, but for the counts of mails that the same keys have sent."""
    return [name for name in redis_client.scan_iter() if b"mails" not in name]


def test_entries_in_redis_expire_within_a_day_at_different_times(
    issue: Issue, redis_client: Any
) -> None:
    for number in range(10):
        code_of(issue(f"key {number}")[1])
    left = [redis_client.ttl(name) for name in proofs_in(redis_client)]
    assert len(left) == 10
    assert min(left) >= 0.74 * DAY
    assert max(left) <= DAY
    assert max(left) - min(left) > 60


def test_redis_reveals_no_token(issue: Issue, redis_client: Any) -> None:
    token = issue()[1]
    code_of(token)
    digest, key = entry_of(token)
    (name,) = proofs_in(redis_client)
    assert_tells_nothing(name + b" " + redis_client.get(name), token, digest, key)


def assert_tells_nothing(kept: bytes, token: Token, digest: bytes, key: APIKey) -> None:
    """Of a digest half may be there, as docs/security.md says."""
    text = token.reveal()
    secrets = {
        "token": text.encode(),
        "secret": text[20:56].encode(),
        "secret's bytes": bytes.fromhex(text[20:56]),
        "hash": key.encoded.encode(),
        "salt and hash": key.encoded.rpartition("keyid=")[2].encode(),
    }
    assert not [name for name, secret in secrets.items() if secret in kept]
    halves = [
        any(form in kept for form in (half, half.hex().encode()))
        for half in (digest[:16], digest[16:])
    ]
    assert halves != [True, True], "the whole digest is there"


ENTRY = b"\x80\x05\x95\x14\x00\x00\x00\x00\x00\x00\x00C\x10%b\x94."


@pytest.mark.parametrize(
    "garbage",
    [
        b"1",
        b"\x80\x05\x88.",  # pickle for True
        b"\x80\x05\x8c\x04true\x94.",
        b"\x80\x05}\x94.",
        ENTRY % bytes(16),
        ENTRY % b"sixteen letters.",
        b"",
        b"no pickle at all",
        ENTRY[:8],
        b"cno.such.module\nthing\n.",
    ],
    ids=[
        "number",
        "true",
        "text",
        "dictionary",
        "zeros",
        "other seal",
        "nothing",
        "noise",
        "cut off",
        "unknown class",
    ],
)
def test_garbage_in_redis_verifies_nothing(
    issue: Issue, passes: list[str], redis_client: Any, garbage: bytes
) -> None:
    key, token = issue()
    code_of(token)
    (name,) = proofs_in(redis_client)
    redis_client.set(name, garbage)
    verified.clear()
    assert code_of(token) is VerdictCode.VALID
    assert services.validate(wrong_secret(key)).code is VerdictCode.NOT_FOUND
    assert len(passes) == 3


def test_a_pickle_in_redis_is_never_loaded(issue: Issue, redis_client: Any, tmp_path: Path) -> None:
    """A client that can write to Redis can verify tokens, but not execute code."""
    token = issue()[1]
    code_of(token)
    (name,) = proofs_in(redis_client)
    made = tmp_path / "made"
    # pickle for os.mkdir(made)
    redis_client.set(name, f"cos\nmkdir\n(V{made}\ntR.".encode())
    verified.clear()
    assert code_of(token) is VerdictCode.VALID
    assert not made.exists()


def test_an_entry_of_one_token_is_not_valid_for_another(
    issue: Issue, passes: list[str], redis_client: Any
) -> None:
    """Mallory, who can write there but has no pepper, puts a good token's entry under another's."""
    tokens_ = [issue(name)[1] for name in ("one", "two")]
    for token in tokens_:
        code_of(token)
    one, two = proofs_in(redis_client)
    first, second = redis_client.get(one), redis_client.get(two)
    redis_client.set(one, second)
    redis_client.set(two, first)
    verified.clear()
    assert [code_of(token) for token in tokens_] == [VerdictCode.VALID] * 2
    assert len(passes) == 4


def unreachable(store: Store) -> None:
    store.process.terminate()
    store.process.wait(timeout=30)


def silent(store: Store) -> None:
    store.process.send_signal(signal.SIGSTOP)


def full(store: Store) -> None:
    store.client.config_set("maxmemory-policy", "noeviction")
    store.client.config_set("maxmemory", "1")


def locked(store: Store) -> None:
    store.client.flushall()
    store.client.config_set("requirepass", "not ours")
    # It asks for the password on connections that are new.
    disconnect()


@pytest.mark.parametrize("end", [unreachable, silent, full, locked])
def test_a_failing_redis_costs_a_pass_and_changes_no_verdict(
    issue: Issue,
    passes: list[str],
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    end: Callable[[Store], None],
) -> None:
    with started() as store:
        use_redis(settings, store.url)
        (key, token), (_cold, cold_token) = issue("one"), issue("two")
        try:
            code_of(token)
            end(store)
            assert code_of(cold_token) is VerdictCode.VALID
            assert services.validate(wrong_secret(key)).code is VerdictCode.NOT_FOUND
            assert len(passes) == 3
            assert [code_of(one) for one in (token, cold_token)] == [VerdictCode.VALID] * 2
            assert len(passes) == 3, "what this process knows it knows without the store"
        finally:
            disconnect()
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert all("shared cache" in record.getMessage() for record in caplog.records)


def test_without_redis_nothing_is_put_into_the_default_cache(
    issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a table on a disk, which would allow cheaper guesses than Argon2id."""
    token = issue()[1]
    monkeypatch.setattr(verified, "cache", None)
    assert code_of(token) is VerdictCode.VALID


# --- All at the same moment -------------------------------------------------------------------


def at_once(calls: list[Callable[[], VerdictCode]]) -> list[VerdictCode]:
    """Return the results of calls in concurrent threads."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], VerdictCode]) -> VerdictCode:
        try:
            start.wait(30)
            return call()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


@pytest.mark.django_db(transaction=True)
def test_one_cold_key_asked_for_by_many_threads_costs_one_pass(
    issue: Issue, passes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its worst: all of them have found it unproved before the first pass ends."""
    threads = 32
    token = issue()[1]
    missed = threading.Semaphore(0)
    really_verified, verify = verified.is_verified, key_hasher().verify

    def is_verified(*args: Any, **kwargs: Any) -> bool:
        known = really_verified(*args, **kwargs)
        if not known:
            missed.release()
        return known

    def after_all_have_missed(*args: Any, **kwargs: Any) -> bool:
        # One more than there are threads: the first looks a second time when it has the lock.
        for _ in range(threads + 1):
            assert missed.acquire(timeout=30)
        return verify(*args, **kwargs)

    monkeypatch.setattr(verified, "is_verified", is_verified)
    monkeypatch.setattr(key_hasher(), "verify", after_all_have_missed)
    codes = at_once([lambda: code_of(token, hash_wait=60)] * threads)
    assert codes == [VerdictCode.VALID] * threads
    assert len(passes) == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("setting", [1, 2, 4])
def test_many_cold_keys_at_once_take_no_more_memory_than_is_set(
    issue: Issue, settings: Settings, monkeypatch: pytest.MonkeyPatch, setting: int
) -> None:
    """ARGON2_CONCURRENCY passes run at once in a process, and no more.

    A pass takes ARGON2_MEMORY_KIB, so all of them take ARGON2_CONCURRENCY × 19 MiB at most: with
    the defaults 2 × 19 = 38 MiB for each worker, however many keys are cold. Hashing a new key
    stands in the same line.
    """
    keys = 64
    settings.KEYS_PER_ACCOUNT = keys
    settings.ARGON2_CONCURRENCY = setting
    cold = [issue(f"key {n}")[1] for n in range(keys)]
    lock, crowded = threading.Lock(), threading.Event()
    inside, most, taken = 0, 0, 0

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            nonlocal inside, most, taken
            with lock:
                inside, taken = inside + 1, taken + 1
                most = max(most, inside)
                if inside >= setting:
                    crowded.set()
            # Nobody leaves before the place was full once; then long enough to be met by others.
            assert crowded.wait(30)
            time.sleep(0.002)
            try:
                return real(*args)
            finally:
                with lock:
                    inside -= 1

        return run

    for name in ("verify", "hash"):
        monkeypatch.setattr(
            argon2.PasswordHasher, name, watched(getattr(argon2.PasswordHasher, name))
        )

    def hash_one() -> VerdictCode:
        key_hasher().hash(cold[0], wait=60)
        return VerdictCode.VALID

    calls: list[Callable[[], VerdictCode]] = [
        lambda token=token: code_of(token, hash_wait=60)  # type: ignore[misc]
        for token in cold
    ]
    codes = at_once([*calls, *[hash_one] * 8])
    assert codes == [VerdictCode.VALID] * (keys + 8)
    assert taken == keys + 8
    assert most == setting


# --- Floods -----------------------------------------------------------------------------------

FLOOD = 500


def test_forged_tokens_cost_neither_a_query_nor_a_pass(
    issue: Issue, passes: list[str], django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    """Their CRC is right, and so are their public ids: what they lack is the tag key."""
    key, _token = issue()
    forged = [wrong_secret(key, n, tag_key=b"mallory's") for n in range(FLOOD)]
    with django_assert_num_queries(0):
        codes = {services.validate(one).code for one in forged}
    assert codes == {VerdictCode.NOT_FOUND}
    assert passes == []


@contextmanager
def all_slots_taken() -> Iterator[None]:
    """All Argon2id slots are taken."""
    with ExitStack() as stack:
        for _ in range(django_settings.ARGON2_CONCURRENCY):
            stack.enter_context(key_hasher()._slot(1))
        yield


def test_a_verified_key_needs_no_argon2_slot(issue: Issue) -> None:
    """A flood of right tags and wrong secrets fills it, and none of it is an answer."""
    key, token = issue()
    code_of(token)
    with all_slots_taken():
        with pytest.raises(HashingBusy):
            services.validate(wrong_secret(key), hash_wait=0.01)
        assert code_of(token, hash_wait=0) is VerdictCode.VALID


def test_a_key_verified_on_the_host_needs_no_argon2_slot(issue: Issue, shared: Path) -> None:
    token = issue()[1]
    code_of(token)
    verified.clear()
    with all_slots_taken():
        assert code_of(token, hash_wait=0) is VerdictCode.VALID


def test_wrong_secrets_for_one_key_do_not_cost_a_pass_each(
    issue: Issue, passes: list[str], settings: Settings
) -> None:
    """An insider has the tag key and a public id: Argon2 is not theirs to burn without a bound.

    They may be refused or result to come back; the owner is let in, known or not, and at the very
    most has to wait as long as ComfyUI's patience lasts.
    """
    key, token = issue()
    code_of(token)
    result = set()
    for n in range(FLOOD):
        with suppress(HashingBusy):
            result.add(services.validate(wrong_secret(key, n), hash_wait=0).code)
    assert result <= {VerdictCode.NOT_FOUND}
    assert code_of(token) is VerdictCode.VALID
    verified.clear()
    assert code_of(token, hash_wait=settings.ARGON2_PATIENT_WAIT) is VerdictCode.VALID
    assert len(passes) < FLOOD


def test_a_repeated_wrong_secret_costs_one_pass(issue: Issue, passes: list[str]) -> None:
    """A key of an account that is gone, above all: its holder's machine goes on asking with it.

    Each that had to wait for its turn would keep a thread, and there are two dozen.
    """
    key, token = issue()
    for presented in (wrong_secret(key), tokens.make(tag_key=key_hasher().tag_keys[0]).reveal()):
        passes.clear()
        codes = [services.validate(presented, hash_wait=0).code for _ in range(FLOOD)]
        assert codes == [VerdictCode.NOT_FOUND] * FLOOD
        assert len(passes) == 1
    assert code_of(token) is VerdictCode.VALID


@pytest.mark.parametrize("before", ["no row", "another's hash"])
def test_a_mismatch_is_forgotten_once_the_row_has_a_matching_hash(
    issue: Issue, before: str
) -> None:
    key, token = issue()
    if before == "no row":
        key.delete()
    else:
        APIKey.objects.filter(pk=key.pk).update(encoded=issue("other")[0].encoded)
    assert [code_of(token) for _ in range(2)] == [VerdictCode.NOT_FOUND] * 2
    key.save()
    assert code_of(token) is VerdictCode.VALID


@pytest.mark.django_db(transaction=True)
def test_a_wrong_secret_from_many_threads_costs_one_pass(passes: list[str]) -> None:
    token = tokens.make(tag_key=key_hasher().tag_keys[0])
    codes = at_once([lambda: code_of(token, hash_wait=60)] * 32)
    assert codes == [VerdictCode.NOT_FOUND] * 32
    assert len(passes) == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("cold", [False, True], ids=["known", "cold"])
def test_a_flood_of_wrong_secrets_does_not_lock_their_owner_out(
    issue: Issue, settings: Settings, cold: bool
) -> None:
    """Mallory's threads use and await all Argon2id slots; the owner gets one all the same."""
    mallory_was_there, over = threading.Semaphore(0), threading.Event()
    key, token = issue()
    code_of(token)
    numbers = itertools.count()
    result: set[VerdictCode] = set()

    def flood() -> VerdictCode:
        while not over.is_set():
            with suppress(HashingBusy):
                result.add(services.validate(wrong_secret(key, next(numbers)), hash_wait=0.05).code)
            mallory_was_there.release()
        return VerdictCode.NOT_FOUND

    def owner() -> VerdictCode:
        try:
            for _ in range(5):
                # Between two of the owner's comes a lot of mallory's.
                for _ in range(50):
                    assert mallory_was_there.acquire(timeout=30)
                if cold:
                    verified.clear()
                code = code_of(token, hash_wait=settings.ARGON2_PATIENT_WAIT)
                if code is not VerdictCode.VALID:
                    return code
            return VerdictCode.VALID
        finally:
            over.set()

    *_mallorys, let_in = at_once([*[flood] * 8, owner])
    assert let_in is VerdictCode.VALID
    assert result == {VerdictCode.NOT_FOUND}
