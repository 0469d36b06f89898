"""A start in production reports all missing and wrong settings together."""

import re
from pathlib import Path

import pytest

from tests.live.conftest import Folder, join, refused_start, serving, validate
from tests.platforms import free_port

REQUIRED = {"SECRET_KEY", "KEY_PEPPER", "DATABASE_URL", "EMAIL_URL", "PUBLIC_URL"}
LONG = "long enough to be thirty-two characters, whatever it says"


def report(folder: Path, *command: str, **variables: str) -> dict[str, str]:
    """Return the errors that a start reports, by variable. The default command is `make run`'s."""
    ended = refused_start(
        *command, **{"VAR_DIR": str(folder), "PORT": str(free_port()), **variables}
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("The platform can't start.") == 1
    faults = dict(re.findall(r"^  (\w+): (.+)$", ended.stderr, re.MULTILINE))
    # The report has a heading, a line for each error, and a link.
    assert len(ended.stderr.splitlines()) == len(faults) + 2
    return faults


@pytest.mark.parametrize(
    "command",
    [("manage.py", "serve"), ("manage.py", "migrate"), ("-c", "import config.wsgi")],
    ids=["serve", "manage", "wsgi"],
)
def test_all_missing_settings_are_reported_together(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    assert report(tmp_path, *command, PRODUCTION="1").keys() == REQUIRED
    # No secret is generated in production.
    assert not list(tmp_path.iterdir())


def test_all_wrong_settings_are_reported_together(tmp_path: Path) -> None:
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
    # A secret that is too short may be truncated.
    assert not any(secret in fault for fault in faults.values())


@pytest.mark.parametrize("url", ["ftp://keys.example", "https://keys.example/comfyui"])
def test_an_invalid_url_is_reported_with_missing_settings(tmp_path: Path, url: str) -> None:
    assert report(tmp_path, PRODUCTION="1", PUBLIC_URL=url).keys() == REQUIRED


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "http"), ("PORT", "70000"), ("WORKERS", "0"), ("TLS", "maybe")],
)
def test_a_number_out_of_range_is_reported_outside_production_too(
    tmp_path: Path, name: str, value: str
) -> None:
    assert name in report(tmp_path, **{name: value})


def test_a_folder_in_place_of_a_secret_file_is_reported(tmp_path: Path) -> None:
    assert report(tmp_path, SECRET_KEY_FILE=str(tmp_path)).keys() == {"SECRET_KEY"}


def test_production_runs_with_its_secrets_in_files(fresh_folder: Folder, tmp_path: Path) -> None:
    def file(name: str, content: str) -> str:
        path = tmp_path / name
        # Editors and `echo` append a line break, which is not part of the secret.
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


def test_empty_variables_count_as_unset(tmp_path: Path) -> None:
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
