"""Rules for the source tree that no linter checks."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_platform_is_a_source_folder_and_not_a_package():
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_import_platform_is_the_standard_library_under_pytest():
    import platform

    assert Path(platform.__file__ or "").parent == Path(sysconfig_stdlib())


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-c", "import platform; print(platform.__file__)"],
        [
            sys.executable,
            "manage.py",
            "shell",
            "--no-imports",
            "-c",
            "import platform; print(platform.__file__)",
        ],
        [
            sys.executable,
            "-c",
            "import config.wsgi, platform; print(platform.__file__)",
        ],
    ],
    ids=["root", "manage.py", "server"],
)
def test_import_platform_is_the_standard_library(command, tmp_path):
    printed = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    assert Path(printed).parent == Path(sysconfig_stdlib())


def sysconfig_stdlib() -> str:
    import sysconfig

    return sysconfig.get_paths()["stdlib"]


def test_no_file_names_a_package_index():
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text()
        assert "://" not in text
        assert "--hash=sha256:" in text


def test_no_template_has_inline_scripts_or_styles():
    for template in (ROOT / "templates").rglob("*.html"):
        text = template.read_text()
        # Mail clients ignore style sheets and scripts.
        assert "style=" not in text or template.name == "mail.html", template
        assert "onclick" not in text, template
        assert "<script>" not in text, template
