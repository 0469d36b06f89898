"""Credential stores of comfy-key: written completely or not at all, readable by the owner only."""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from comfy_keys.credential_stores import ComfyCli, EnvFile

from tests.factories import invented_key

KEY = invented_key()
# Not the key itself: pytest prints the parameters.
ENTRY = b"COMFY_API_KEY=<the key>"


def filled(text: bytes) -> bytes:
    return text.replace(b"<the key>", KEY.encode())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, ENTRY + b"\n"),
        (b"", ENTRY + b"\n"),
        (b"A=1\n", b"A=1\n" + ENTRY + b"\n"),
        (b"A=1", b"A=1\n" + ENTRY + b"\n"),
        (b"COMFY_API_KEY=old\nA=1\n", ENTRY + b"\nA=1\n"),
        (b"COMFY_API_KEY=", ENTRY),
        (b"A=1\r\nCOMFY_API_KEY = 'old'\r\nB=2\r\n", b"A=1\r\n" + ENTRY + b"\r\nB=2\r\n"),
        (b"  export COMFY_API_KEY=old # mine\n", b"  export " + ENTRY + b"\n"),
        (b"COMFY_API_KEY=a\nCOMFY_API_KEY=b\n", ENTRY + b"\n" + ENTRY + b"\n"),
        (b"#COMFY_API_KEY=a\n", b"#COMFY_API_KEY=a\n" + ENTRY + b"\n"),
        (b"MY_COMFY_API_KEY=a\n", b"MY_COMFY_API_KEY=a\n" + ENTRY + b"\n"),
        (b"COMFY_API_KEYS=a\n\xff\xfe\n", b"COMFY_API_KEYS=a\n\xff\xfe\n" + ENTRY + b"\n"),
    ],
)
def test_only_the_line_of_the_key_changes(tmp_path, before, after):
    file = tmp_path / ".env"
    if before is not None:
        file.write_bytes(before)
        file.chmod(0o664)
    place = EnvFile(str(file))
    place.check()
    place.write(KEY)
    assert file.read_bytes() == filled(after)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_a_symbolic_link_is_kept(tmp_path):
    file, link = tmp_path / "real", tmp_path / ".env"
    file.write_bytes(b"A=1\n")
    link.symlink_to(file)
    EnvFile(str(link)).write(KEY)
    assert link.is_symlink()
    assert file.read_bytes() == filled(b"A=1\n" + ENTRY + b"\n")


def test_a_failed_write_keeps_the_file(tmp_path, monkeypatch):
    file = tmp_path / ".env"
    file.write_bytes(b"A=1\n")

    def full(descriptor: int) -> None:
        # Others could keep what they can read now.
        assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o600
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        EnvFile(str(file)).write(KEY)
    assert file.read_bytes() == b"A=1\n"
    assert list(tmp_path.iterdir()) == [file]


def test_other_than_regular_files_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing" / ".env", Path("/dev/null")):
        with pytest.raises(OSError, match=r"no plain file|No such"):
            EnvFile(str(path)).check()
    assert Path("/dev/null").is_char_device()


@pytest.fixture
def store(tmp_path):
    return ComfyCli({"COMFY_SECRETS_PATH": str(tmp_path / "comfy" / "secrets.json")})


def test_other_content_of_comfy_clis_store_is_kept(store):
    store.check()
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    assert not store.path.exists()
    kept = {
        "cloud_session": {"access_token": "x"},
        "providers": {"civitai": {"key": "c", "updated_at": "2026"}},
        "of later days": [1],
    }
    store.path.write_text(json.dumps(kept))
    store.write(KEY)
    now = json.loads(store.path.read_text())
    ours = now["providers"].pop("comfy-cloud-api-key")
    assert ours["key"] == KEY
    assert now == kept
    assert store.has_session()
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600


def test_concurrent_writers_lose_nothing(store):
    store.check()
    keys = [invented_key() for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(store.write, keys))
    kept = json.loads(store.path.read_text())
    assert kept["providers"]["comfy-cloud-api-key"]["key"] in keys
    assert sorted(path.name for path in store.path.parent.iterdir()) == [
        "secrets.json",
        "secrets.json.lock",
    ]


def test_a_home_folder_names_the_store(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ComfyCli({}).path == tmp_path / ".config" / "comfy-cli" / "secrets.json"
