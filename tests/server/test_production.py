"""A start in production says all that is missing or wrong, in one report."""

import re
from pathlib import Path

import pytest

from tests.server.conftest import Folder, join, refused_start, serving, validate
from tests.servers import free_port

pytestmark = pytest.mark.server

REQUIRED = {"SECRET_KEY", "KEY_PEPPER", "DATABASE_URL", "EMAIL_URL", "PUBLIC_URL"}
LONG = "long enough to be thirty-two characters, whatever it says"


def report(folder: Path, *command: str, **variables: str) -> dict[str, str]:
    """The faults that a start reports, by the variable. Without a command it is `make run`'s."""
    ended = refused_start(
        *command, **{"VAR_DIR": str(folder), "PORT": str(free_port()), **variables}
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("The platform can't start.") == 1
    faults = dict(re.findall(r"^  (\w+): (.+)$", ended.stderr, re.MULTILINE))
    # A heading, a line for each fault, and where to read more.
    assert len(ended.stderr.splitlines()) == len(faults) + 2
    return faults


@pytest.mark.parametrize(
    "command",
    [("-m", "config.serve"), ("manage.py", "migrate"), ("-c", "import config.wsgi")],
    ids=["serve", "manage", "wsgi"],
)
def test_everything_that_is_missing_is_said_at_once(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    assert report(tmp_path, *command, PRODUCTION="1").keys() == REQUIRED
    # Nothing is made up for production, not even to be thrown away.
    assert not list(tmp_path.iterdir())


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    secret = "only-31-characters-of-something"
    faults = report(
        tmp_path,
        PRODUCTION="1",
        SECRET_KEY=secret,
        KEY_PEPPER_FILE=str(tmp_path / "nothing-here"),
        PUBLIC_URL="https://keys.example/comfyui",
        PORT="http",
        WORKERS="many",
        CACHE_URL="memcached://127.0.0.1",
        TLS_CERT="/etc/keys.pem",
        DEBUG="1",
    )
    assert faults.keys() == {
        "SECRET_KEY",
        "KEY_PEPPER",
        "DATABASE_URL",
        "EMAIL_URL",
        "PUBLIC_URL",
        "PORT",
        "WORKERS",
        "CACHE_URL",
        "TLS_CERT",
        "DEBUG",
    }
    assert "32 characters" in faults["SECRET_KEY"]
    assert "KEY_PEPPER_FILE" in faults["KEY_PEPPER"]
    assert "without a path" in faults["PUBLIC_URL"]
    # A secret that is too short may be a real one with its end missing.
    assert not any(secret in fault for fault in faults.values())


@pytest.mark.parametrize("url", ["ftp://keys.example", "https://keys.example/comfyui"])
def test_an_address_that_is_none_is_said_with_what_else_is_missing(
    tmp_path: Path, url: str
) -> None:
    assert report(tmp_path, PRODUCTION="1", PUBLIC_URL=url).keys() == REQUIRED


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "http"), ("PORT", "70000"), ("WORKERS", "0"), ("TLS", "maybe")],
)
def test_a_number_that_makes_no_sense_is_said_on_ones_own_machine_too(
    tmp_path: Path, name: str, value: str
) -> None:
    assert name in report(tmp_path, **{name: value})


def test_a_folder_in_place_of_a_secrets_file_is_said(tmp_path: Path) -> None:
    assert report(tmp_path, SECRET_KEY_FILE=str(tmp_path)).keys() == {"SECRET_KEY"}


def test_production_runs_with_its_secrets_in_files(fresh_folder: Folder, tmp_path: Path) -> None:
    def file(name: str, content: str) -> str:
        path = tmp_path / name
        # Editors and `echo` end a file with a line break, which belongs to no secret.
        path.write_text(content + "\n")
        return str(path)

    folder = fresh_folder()
    database = f"sqlite:///{folder / 'production.sqlite3'}"
    production = {
        "PRODUCTION": "1",
        "EMAIL_URL": "smtp://127.0.0.1:9",
        "PUBLIC_URL": "http://127.0.0.1",
    }
    with serving(
        folder,
        **production,
        SECRET_KEY_FILE=file("secret", LONG),
        KEY_PEPPER_FILE=file("pepper", LONG[::-1]),
        DATABASE_URL_FILE=file("database", database),
    ) as running:
        (key,) = join(running, keys=1).keys
        assert validate(running, key.token).status == 200
    assert not (folder / "secret_key").exists()
    assert not (folder / "key_pepper").exists()
    assert (folder / "production.sqlite3").exists()

    with serving(
        folder, **production, SECRET_KEY=LONG, KEY_PEPPER=LONG[::-1], DATABASE_URL=database
    ) as running:
        assert validate(running, key.token).status == 200


def test_empty_variables_are_as_good_as_none(tmp_path: Path) -> None:
    assert report(tmp_path, PRODUCTION="1", **dict.fromkeys(REQUIRED, "")).keys() == REQUIRED


def test_production_refuses_to_start_without_its_database(tmp_path: Path) -> None:
    ended = refused_start(
        VAR_DIR=str(tmp_path),
        PORT=str(free_port()),
        PRODUCTION="1",
        SECRET_KEY=LONG,
        KEY_PEPPER=LONG,
        EMAIL_URL="smtp://127.0.0.1:9",
        PUBLIC_URL="https://keys.example",
        DATABASE_URL="postgres://keys:hunter2hunter2@127.0.0.1:1/keys",
    )
    assert ended.returncode == 1
    assert "The database can't be reached" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr + ended.stdout
