"""The verified-hash cache in shared memory."""

import hashlib
import mmap
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from apikeys import tokens
from apikeys.cache.shared_verified import SharedVerifiedCache, mac
from tests.platforms import ROOT

SIZE = 4 * 1024 * 1024
SETS = 32_768
WAYS = 4
ENTRY = 32

ENCODED = "$argon2id$v=19$m=8,t=1,p=1,keyid=Zm9vYmFy$c2FsdHNhbHQ$aGFzaGhhc2g"
OTHER = ENCODED.replace("c2Fs", "U2Fs")


def digest(number: int, *, in_set: int | None = None) -> bytes:
    """A digest as good as random, of the set `in_set` if one is asked for."""
    made = hashlib.sha256(f"token {number}".encode()).digest()
    if in_set is None:
        return made
    return made[:16] + in_set.to_bytes(4) + made[20:]


ALICE = digest(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "verified"


@pytest.fixture
def table(path: Path) -> SharedVerifiedCache:
    return SharedVerifiedCache(path)


# --- Entries -------------------------------------------------------------------------------------


def test_only_verified_pairs_are_found(table: SharedVerifiedCache) -> None:
    assert not table.has(ALICE, ENCODED)
    table.add(ALICE, ENCODED)
    assert table.has(ALICE, ENCODED)
    assert not table.has(ALICE, OTHER), "the row's hash is another one now"
    assert not table.has(digest(1), ENCODED)


@pytest.mark.parametrize("at", [0, 15, 16, 19, 20, 31])
def test_a_digest_that_differs_in_one_bit_is_not_found(table: SharedVerifiedCache, at: int) -> None:
    """Half of a digest is kept, and all of it counts: it keys the MAC."""
    table.add(ALICE, ENCODED)
    unlike = bytearray(ALICE)
    unlike[at] ^= 1
    assert not table.has(bytes(unlike), ENCODED)


def test_other_processes_find_an_entry(path: Path, table: SharedVerifiedCache) -> None:
    meanwhile = SharedVerifiedCache(path)
    table.add(ALICE, ENCODED)
    assert meanwhile.has(ALICE, ENCODED)
    del table, meanwhile
    assert SharedVerifiedCache(path).has(ALICE, ENCODED)


def test_a_mac_is_for_one_digest_and_one_hash() -> None:
    sealed = {mac(d, e) for d in (ALICE, digest(1)) for e in (ENCODED, OTHER)}
    assert len(sealed) == 4
    assert all(len(one) == 16 for one in sealed)


def test_a_new_hash_replaces_the_former(table: SharedVerifiedCache) -> None:
    same_set = [digest(n, in_set=9) for n in range(WAYS)]
    for one in same_set:
        table.add(one, ENCODED)
    table.add(same_set[2], OTHER)
    assert table.has(same_set[2], OTHER)
    assert not table.has(same_set[2], ENCODED)
    assert all(table.has(one, ENCODED) for one in same_set if one != same_set[2])


@pytest.mark.parametrize("in_set", [0, 1, SETS - 1])
def test_a_full_set_evicts_one_entry(table: SharedVerifiedCache, in_set: int) -> None:
    kept = [digest(n, in_set=(in_set + 1) % SETS) for n in range(WAYS)]
    full = [digest(n, in_set=in_set) for n in range(WAYS)]
    for one in kept + full:
        table.add(one, ENCODED)
    assert all(table.has(one, ENCODED) for one in kept + full)
    newest = digest(WAYS, in_set=in_set)
    table.add(newest, ENCODED)
    assert table.has(newest, ENCODED)
    assert [table.has(one, ENCODED) for one in full].count(False) == 1
    assert all(table.has(one, ENCODED) for one in kept), "another set is none of its business"


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(place=SETS - 1)
@example(place=SETS)
@example(place=2**32 - 1)
@given(place=st.integers(0, 2**32 - 1))
def test_there_is_a_place_for_every_digest(table: SharedVerifiedCache, place: int) -> None:
    somewhere = digest(place, in_set=place)
    table.add(somewhere, ENCODED)
    assert table.has(somewhere, ENCODED)


def test_a_table_beyond_its_capacity_works(table: SharedVerifiedCache) -> None:
    for n in range(50 * WAYS):
        table.add(digest(n, in_set=n % 2), ENCODED)
        assert table.has(digest(n, in_set=n % 2), ENCODED)


# --- Whose file it is -------------------------------------------------------------------------


def test_a_new_table_is_its_owners_alone_whatever_the_umask(path: Path) -> None:
    former = os.umask(0)
    try:
        SharedVerifiedCache(path)
    finally:
        os.umask(former)
    found = path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert (found.st_uid, found.st_size) == (os.geteuid(), SIZE)


@pytest.mark.parametrize("mode", [0o644, 0o666, 0o640, 0o620, 0o602, 0o604, 0o610], ids=oct)
def test_a_table_that_others_can_read_or_write_is_refused(path: Path, mode: int) -> None:
    path.write_bytes(b"as it was")
    path.chmod(mode)
    with pytest.raises(PermissionError):
        SharedVerifiedCache(path)
    assert path.read_bytes() == b"as it was"


def test_a_table_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even by root, who could open it: mallory may have written it."""
    table = SharedVerifiedCache(path)
    table.add(ALICE, ENCODED)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    else:
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(PermissionError):
        SharedVerifiedCache(path)


def a_link(path: Path) -> None:
    SharedVerifiedCache(path.with_name("good"))
    path.symlink_to(path.with_name("good"))


def a_link_to_nowhere(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def a_fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def a_folder(path: Path) -> None:
    path.mkdir(0o700)


@pytest.mark.parametrize("there_is", [a_link, a_link_to_nowhere, a_fifo, a_folder])
def test_other_types_of_files_are_refused(path: Path, there_is: Callable[[Path], None]) -> None:
    there_is(path)
    before = sorted(path.parent.iterdir())
    with pytest.raises(OSError):  # noqa: PT011 (which one is the system's affair)
        SharedVerifiedCache(path)
    assert sorted(path.parent.iterdir()) == before, "nothing was made at the end of a link"


def test_a_refused_file_is_not_kept_open(path: Path) -> None:
    path.touch(0o666)
    path.chmod(0o666)
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    for _ in range(20):
        with pytest.raises(PermissionError):
            SharedVerifiedCache(path)
    assert len(list(descriptors.iterdir())) < before + 20


@pytest.mark.parametrize("size", [0, 1, mmap.PAGESIZE, SIZE - 1, SIZE + 1, 2 * SIZE])
def test_a_table_of_another_size_is_resized(path: Path, size: int) -> None:
    path.touch(0o600)
    os.truncate(path, size)
    table = SharedVerifiedCache(path)
    last = digest(1, in_set=SETS - 1)
    for one in (ALICE, last):
        assert not table.has(one, ENCODED)
        table.add(one, ENCODED)
        assert table.has(one, ENCODED)
    assert path.stat().st_size == SIZE


def test_the_memory_is_allocated_at_once(path: Path) -> None:
    """A hole in a full /dev/shm (64 MiB in a container) kills a process that touches it, by SIGBUS.

    Reading is enough. Missing memory has to be an OSError when the file is opened.
    """
    SharedVerifiedCache(path)
    assert path.stat().st_blocks * 512 >= SIZE


# --- Partly written entries ---------------------------------------------------------------------

DIGESTS = st.binary(min_size=32, max_size=32)
HASHES = st.sampled_from([ENCODED, OTHER, "", "x"])


def stored(path: Path, table: SharedVerifiedCache, known: bytes, encoded: str) -> tuple[int, bytes]:
    """Return where the set of an entry begins, and the entry. Leaves the table empty."""
    put(path, 0, bytes(SIZE))
    table.add(known, encoded)
    content = path.read_bytes()
    at = (len(content) - len(content.lstrip(b"\0"))) // ENTRY * ENTRY
    put(path, at, bytes(ENTRY))
    return at // (WAYS * ENTRY) * (WAYS * ENTRY), content[at : at + ENTRY]


def put(path: Path, at: int, content: bytes) -> None:
    """What is in the table at `at`, as another process would have left it."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    one=st.tuples(DIGESTS, HASHES),
    other=st.tuples(DIGESTS, HASHES),
    mask=st.one_of(
        # Byte by byte, and as a copy that stopped half way.
        st.integers(0, 2**ENTRY - 1),
        st.integers(0, ENTRY).map(lambda cut: (1 << cut) - 1),
    ),
    way=st.integers(0, WAYS - 1),
)
def test_a_mixture_of_two_entries_matches_nothing(
    path: Path,
    table: SharedVerifiedCache,
    one: tuple[bytes, str],
    other: tuple[bytes, str],
    mask: int,
    way: int,
) -> None:
    my_start, mine = stored(path, table, *one)
    their_start, theirs = stored(path, table, *other)
    mixed = bytes(mine[n] if mask >> n & 1 else theirs[n] for n in range(ENTRY))
    for known, start, entry in ((one, my_start, mine), (other, their_start, theirs)):
        put(path, start, bytes(way * ENTRY) + mixed + bytes((WAYS - 1 - way) * ENTRY))
        assert table.has(*known) == (mixed == entry)
        put(path, start, bytes(WAYS * ENTRY))


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(known=st.tuples(DIGESTS, HASHES), noise=st.binary(min_size=128, max_size=128))
def test_random_bytes_match_nothing_and_are_replaced(
    path: Path, table: SharedVerifiedCache, known: tuple[bytes, str], noise: bytes
) -> None:
    put(path, stored(path, table, *known)[0], noise)
    assert not table.has(*known)
    table.add(*known)
    assert table.has(*known)


@pytest.mark.parametrize("cut", range(1, ENTRY))
def test_a_half_written_entry_matches_neither_hash(
    path: Path, table: SharedVerifiedCache, cut: int
) -> None:
    """The same token under two hashes: their entries have their first halves in common."""
    start, former = stored(path, table, ALICE, ENCODED)
    _start, renewed = stored(path, table, ALICE, OTHER)
    put(path, start, renewed[:cut] + former[cut:])
    assert table.has(ALICE, ENCODED) == (cut <= 16)
    assert not table.has(ALICE, OTHER)


_WRITER = """
import sys
from pathlib import Path
from apikeys.cache.shared_verified import SharedVerifiedCache

table = SharedVerifiedCache(Path(sys.argv[1]))
encoded = sys.argv[2]
digests = [bytes.fromhex(one) for one in sys.argv[3:]]
print("ready", flush=True)
sys.stdin.readline()
for _ in range(4_000):
    for digest in digests:
        table.add(digest, encoded)
"""


def writer(path: Path, encoded: str, digests: list[bytes]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path), encoded, *(one.hex() for one in digests)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_concurrent_writes_verify_nothing_new(path: Path, table: SharedVerifiedCache) -> None:
    """They fight over the four places of one set: same tokens under two hashes, and their own."""
    both = [digest(n, in_set=3) for n in range(4)]
    first = [digest(n, in_set=3) for n in range(4, 8)]
    second = [digest(n, in_set=3) for n in range(8, 12)]
    # Like the others in all that is kept of a digest, and in its place; and never verified.
    unknown = [one[:20] + bytes(12) for one in both + first + second]
    never = [
        *((one, ENCODED) for one in second + unknown),
        *((one, OTHER) for one in first + unknown),
        *((one, "neither") for one in both + first + second),
    ]
    writers = [writer(path, ENCODED, both + first), writer(path, OTHER, both + second)]
    looked = 0
    try:
        for one in writers:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        for one in writers:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        while looked == 0 or any(one.poll() is None for one in writers):
            believed = [pair for pair in never if table.has(*pair)]
            assert not believed
            looked += 1
        assert [one.wait() for one in writers] == [0, 0]
    finally:
        for one in writers:
            one.kill()
            one.communicate()
    assert any(table.has(one, e) for one in both + first + second for e in (ENCODED, OTHER))
    table.add(both[0], ENCODED)
    assert table.has(both[0], ENCODED), "the set is of use still"


# --- What it gives away, and what becomes of it -----------------------------------------------


def test_neither_a_token_nor_a_whole_digest_nor_a_hash_is_in_the_file(
    path: Path, table: SharedVerifiedCache
) -> None:
    token = tokens.make(tag_key=b"t" * 32).reveal()
    known = hashlib.sha256(token.encode()).digest()
    table.add(known, ENCODED)
    kept = path.read_bytes()
    assert known[:16] in kept, "it is looked for in the right place"
    for secret in (
        token.encode(),
        token[20:56].encode(),
        bytes.fromhex(token[20:56]),
        known,
        known[:17],
        known[16:],
        ENCODED.encode(),
    ):
        assert secret not in kept
    assert len(kept.replace(b"\0", b"")) <= ENTRY, "an entry is all that there is"


def test_a_table_that_is_removed_in_use_does_no_harm(
    path: Path, table: SharedVerifiedCache
) -> None:
    table.add(ALICE, ENCODED)
    path.unlink()
    assert table.has(ALICE, ENCODED)
    table.add(digest(1), ENCODED)
    assert table.has(digest(1), ENCODED)
    later = SharedVerifiedCache(path)
    assert not later.has(ALICE, ENCODED)
    later.add(digest(2), ENCODED)
    assert later.has(digest(2), ENCODED)
    assert not table.has(digest(2), ENCODED)
