"""The environment: one reader, every fault in one report."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from config.environment import made_once, origin

ROOT = Path(__file__).parents[2]
LONG = "s" * 40


def start(tmp_path, *show: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Loads the settings as any process does, and prints what is asked for."""
    code = "from config import settings\n" + "\n".join(f"print(settings.{name})" for name in show)
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "VAR_DIR": str(tmp_path), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_embedded_default_needs_no_variable(tmp_path):
    started = start(tmp_path, "PUBLIC_URL", "DEBUG", "ACCOUNT_EMAIL_VERIFICATION")
    assert started.stdout.split() == ["http://127.0.0.1:8000", "False", "optional"]


def test_argon2_is_at_the_owasp_minimum_unless_set(tmp_path):
    started = start(tmp_path, "ARGON2_MEMORY_KIB", "ARGON2_PASSES", "ARGON2_LANES")
    assert started.stdout.split() == ["19456", "2", "1"]


def test_production_without_its_variables_names_every_one_of_them_at_once(tmp_path):
    started = start(tmp_path, PRODUCTION="1")
    assert started.returncode == 1
    for name in ["SECRET_KEY", "KEY_PEPPER", "DATABASE_URL", "EMAIL_URL", "PUBLIC_URL"]:
        assert f"  {name}: " in started.stderr
    assert "Traceback" not in started.stderr
    assert not list(tmp_path.iterdir())


def test_every_fault_is_in_the_one_report(tmp_path):
    started = start(
        tmp_path,
        PRODUCTION="1",
        SECRET_KEY="short",
        KEY_PEPPER_FILE="/nowhere",
        DATABASE_URL=f"sqlite:///{tmp_path}/x.sqlite3",
        EMAIL_URL="carrier-pigeon://coop",
        PUBLIC_URL="https://keys.example/with/a/path",
        PORT="eighty",
        CACHE_URL="memcached://x",
        DEBUG="1",
    )
    assert started.returncode == 1
    for name in [
        "SECRET_KEY",
        "KEY_PEPPER",
        "EMAIL_URL",
        "PUBLIC_URL",
        "PORT",
        "CACHE_URL",
        "DEBUG",
    ]:
        assert f"  {name}" in started.stderr, name
    assert "DATABASE_URL" not in started.stderr
    assert "Traceback" not in started.stderr
    assert "short" not in started.stderr.replace("be short", "")


def test_secrets_can_come_from_files(tmp_path):
    (tmp_path / "pepper").write_text(f"{LONG}\n")
    started = start(
        tmp_path,
        "KEY_PEPPER",
        "PUBLIC_URL",
        "ACCOUNT_EMAIL_VERIFICATION",
        "SESSION_COOKIE_NAME",
        PRODUCTION="1",
        SECRET_KEY=LONG,
        KEY_PEPPER_FILE=str(tmp_path / "pepper"),
        DATABASE_URL=f"sqlite:///{tmp_path}/x.sqlite3",
        EMAIL_URL="submission://user:pass@mail.example",
        PUBLIC_URL="https://keys.example/",
    )
    assert started.stdout.split() == [
        LONG, "https://keys.example", "mandatory", "__Host-session",
    ], started.stderr  # fmt: skip


def test_plain_http_is_refused_where_tls_is_on(tmp_path):
    started = start(tmp_path, TLS="1", PUBLIC_URL="http://keys.example")
    assert "PUBLIC_URL" in started.stderr
    assert "Traceback" not in started.stderr


def test_two_platforms_on_one_machine_have_cookies_of_their_own(tmp_path):
    names = {start(tmp_path, "SESSION_COOKIE_NAME", PORT=port).stdout for port in ["8000", "8001"]}
    assert len(names) == 2


def test_an_empty_variable_is_as_if_it_were_not_set(tmp_path):
    assert start(tmp_path, "PORT", PORT="", EMAIL_URL="").stdout.split() == ["8000"]


def test_whoever_comes_to_a_database_by_a_link_finds_the_same_table(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    names = {
        start(tmp_path, "EPOCHS_FILE", DATABASE_URL=f"sqlite:///{tmp_path}/{name}").stdout
        for name in ["link", "real"]
    }
    assert names == {f"{tmp_path}/real.epochs\n"}


@pytest.mark.parametrize("name", ["SECRET_KEY", "KEY_PEPPER"])
def test_a_secret_is_made_once_and_for_its_owner_alone(tmp_path, name):
    first = start(tmp_path, name).stdout
    assert len(first.strip()) >= 48
    assert start(tmp_path, name).stdout == first
    mode = (tmp_path / name.lower()).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_two_processes_that_start_together_agree_on_a_secret(tmp_path):
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from pathlib import Path; from config.environment import made_once; "
                "sys.stdin.readline(); print(made_once(Path(sys.argv[1])))",
                str(tmp_path / "secret"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert len({process.communicate(timeout=30)[0] for process in processes}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_who_died_while_making_a_secret_leaves_nothing_in_the_way(tmp_path):
    """In a container the next process has the same pid."""
    (tmp_path / f".secret.{os.getpid()}").touch()
    assert len(made_once(tmp_path / "secret")) >= 48


def test_made_once_reads_what_is_there(tmp_path):
    (tmp_path / "secret").write_text("given\n")
    assert made_once(tmp_path / "secret") == "given"


@pytest.mark.parametrize(
    "url", ["keys.example", "ftp://x", "https://", "https://x/y", "https://x?y", "https://u@x"]
)
def test_what_is_no_origin_is_refused(url):
    with pytest.raises(ValueError, match="must be"):
        origin(url)


def test_an_origin_is_split():
    assert origin("https://keys.example:8443/") == ("https", "keys.example", 8443)
