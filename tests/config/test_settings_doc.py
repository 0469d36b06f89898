"""docs/settings.md: generated, complete, and true of files."""

import re
import subprocess
import sys

from tests.config.test_environment import ROOT, errors

DOCUMENT = ROOT / "docs" / "settings.md"


def documented():
    """Return the names of the variables in docs/settings.md."""
    tables = DOCUMENT.read_text().partition("## Read by commands")[0]
    return re.findall(r"^\| `(\w+)` \|", tables, re.MULTILINE)


def test_the_page_is_up_to_date():
    made = subprocess.run(
        [sys.executable, "scripts/settings_doc.py", "--print"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert DOCUMENT.read_text() == made, "Run: make settings-doc"


def test_each_variable_is_described_in_sentences():
    for row in re.findall(r"^\| `\w+` \|.*", DOCUMENT.read_text(), re.MULTILINE):
        name, value, default, meaning = row.strip("| ").split(" | ")
        assert value, name
        assert default, name
        assert re.fullmatch(r"\S.+\.", meaning), name


def test_each_variable_can_be_read_from_a_file(tmp_path):
    names = documented()
    assert len(names) > 50
    found = errors(tmp_path, **{f"{name}_FILE": "/nowhere" for name in names})
    for name in names:
        assert f"{name}_FILE must be a readable file path" in found.get(name, ""), name
