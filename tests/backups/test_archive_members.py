"""Archives of backups may contain a manifest and a dump, and no other members."""

import hashlib
import json
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest

from backups.archive import BackupError, Manifest, open_archive

DUMP = b"the database"
MANIFEST = Manifest(
    made_at="2026-11-30T09:00:00+00:00",
    database="sqlite",
    server="3.46",
    migrations=[],
    peppers={},
    accounts=0,
    keys=0,
    sha256=hashlib.sha256(DUMP).hexdigest(),
    size=len(DUMP),
)


def packed(to: Path, *others: str) -> Path:
    with zipfile.ZipFile(to, "w") as archive:
        archive.writestr("manifest.json", json.dumps(asdict(MANIFEST)))
        archive.writestr("database", DUMP)
        for name in others:
            archive.writestr(name, b"planted")
    return to


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_backup_is_unpacked_into_a_temporary_folder(tmp_path):
    path = packed(tmp_path / "good.zip")
    with open_archive(path) as (manifest, dump):
        assert manifest == MANIFEST
        assert dump.read_bytes() == DUMP
        assert dump.parent.parent == tmp_path
    assert files_below(tmp_path) == {"good.zip"}


@pytest.mark.parametrize(
    "name",
    ["../planted", "../../planted", "/var/planted-by-a-backup", "a/../../planted", "..\\planted",
     "C:\\planted", "database/../../planted", "folder/planted", "planted", "./database"],
)  # fmt: skip
def test_unknown_members_are_rejected_and_written_nowhere(tmp_path, name):
    here = tmp_path / "backups" / "here"
    here.mkdir(parents=True)
    path = packed(here / "bad.zip", name)
    with pytest.raises(BackupError, match="is no backup: it holds"), open_archive(path):
        raise AssertionError("it was opened")
    assert files_below(tmp_path) == {"backups", "backups/here", "backups/here/bad.zip"}
    assert not Path("/var/planted-by-a-backup").exists()


def test_a_dump_with_another_name_is_rejected(tmp_path):
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", json.dumps(asdict(MANIFEST)))
        archive.writestr("../database", DUMP)
    with pytest.raises(BackupError), open_archive(path):
        raise AssertionError("it was opened")
