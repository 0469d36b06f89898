"""The comfy-key command: get a key for a machine without a browser, and validate keys."""

import re
import signal
import stat
from datetime import UTC, datetime, timedelta

import pytest
from comfy_keys import Client

from tests.factories import invented_key
from tests.live.comfy_keys.conftest import code_of, command, decide, fixed_server, http_answer
from tests.live.comfy_keys.test_client import issue
from tests.live.conftest import TOKEN, join
from tests.platforms import free_port


@pytest.fixture
def machine(tmp_path):
    with command(tmp_path / "home") as machine:
        yield machine


@pytest.fixture
def alice(running):
    return join(running, keys=1)


# --- login ----------------------------------------------------------------------------------------


def test_after_approval_the_key_alone_is_printed(running, alice, machine):
    process = machine.start("login", "--url", running.url, "--name", "render box")
    decide(running, alice, code_of(process), "confirm", name="render box")
    printed, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert TOKEN.fullmatch(printed.removesuffix("\n"))
    assert printed.strip()[20:] not in stderr
    with Client(running.url) as client:
        verdict = client.validate(printed)
    assert (verdict.key.name, verdict.customer.email) == ("render box", alice.email)
    assert list(machine.home.iterdir()) == []


def test_the_key_is_written_to_the_given_file_and_not_printed(running, alice, machine):
    file = machine.home / ".env"
    file.write_bytes(b"# mine\nexport COMFY_API_KEY=old\nOTHER=\xff1\r\nCOMFY_API_KEY_2=x")
    file.chmod(0o644)
    process = machine.start(
        *("login", "--url", running.url, "--write-env", ".env", "--scope", "proxy:openai")
    )
    decide(running, alice, code_of(process), "confirm", name="studio")
    printed, stderr = process.communicate(timeout=60)
    assert (process.returncode, printed) == (0, ""), stderr
    written = re.fullmatch(
        rb"# mine\nexport COMFY_API_KEY=(\S{72})\nOTHER=\xff1\r\nCOMFY_API_KEY_2=x",
        file.read_bytes(),
    )
    assert written
    key = written[1].decode()
    assert key[20:] not in stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with Client(running.url) as client:
        assert client.validate(key).key.scopes == ("proxy:openai",)
    assert list(machine.home.iterdir()) == [file]


def test_after_a_refusal_there_is_no_key(running, alice, machine):
    process = machine.start("login", "--url", running.url)
    decide(running, alice, code_of(process), "deny", name="x")
    printed, stderr = process.communicate(timeout=60)
    assert (process.returncode, printed) == (1, "")
    assert "was denied" in stderr


def test_a_key_that_can_not_be_written_is_revoked(running, alice, machine):
    folder = machine.home / "gone"
    folder.mkdir()
    process = machine.start("login", "--url", running.url, "--write-env", "gone/.env")
    code = code_of(process)
    folder.rmdir()
    decide(running, alice, code, "confirm", name="studio")
    printed, stderr = process.communicate(timeout=60)
    assert (process.returncode, printed) == (4, "")
    assert "The key was deleted" in stderr
    assert "comfyui-" not in stderr
    (line,) = [
        line for line in running.manage("list_keys", alice.email).splitlines() if "studio" in line
    ]
    assert line.split()[1] == "revoked"
    assert "Traceback" not in stderr


def test_ctrl_c_stops_without_a_traceback(running, machine):
    process = machine.start("login", "--url", running.url)
    code_of(process)
    process.send_signal(signal.SIGINT)
    printed, stderr = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, "")
    assert stderr.endswith("Stopped.\n")
    assert "Traceback" not in stderr


def test_an_unwritable_file_is_reported_before_any_request(machine):
    folder = machine.home / "taken"
    folder.mkdir()
    with fixed_server(http_answer("404 Not Found")) as seen:
        for place in ("taken", "missing/.env", "/dev/null"):
            done = machine.run("login", "--url", seen.url, "--write-env", place)
            assert (done.returncode, done.stdout) == (2, "")
            assert "can't be written" in done.stderr
        assert seen.requests == []
    assert list(folder.iterdir()) == []


def test_an_unreadable_store_of_comfy_cli_is_not_changed(machine):
    for content in (b"not JSON", b"[]", b'{"providers": []}', b"\xff"):
        store = machine.home / "secrets.json"
        store.write_bytes(content)
        with fixed_server(http_answer("404 Not Found")) as seen:
            done = machine.run(
                "login", "--url", seen.url, "--comfy-cli", COMFY_SECRETS_PATH=str(store)
            )
            assert seen.requests == []
        assert done.returncode == 2, done.stderr
        assert store.read_bytes() == content


METADATA = (
    b'{"issuer": "URL", "device_authorization_endpoint": "URL/oauth/device/code", '
    b'"token_endpoint": "URL/oauth/token"}'
)

NO_PLATFORMS = {
    "a page": http_answer("200 OK", b"<h1>Welcome</h1>"),
    "nothing": http_answer("404 Not Found"),
    "a redirect": http_answer("302 Found", Location="http://127.0.0.1:9/"),
    "another one": http_answer("200 OK", METADATA.replace(b"URL", b"https://keys.example.org")),
    "a list": http_answer("200 OK", b"[1]"),
    "half of it": http_answer("200 OK", b'{"issuer": 5}'),
    "an error": http_answer("400 Bad", b'{"error": "invalid_client"}'),
    "steering words": http_answer("400 Bad", b'{"error": "x", "message": "\\u001b[2J\\u0007"}'),
}


@pytest.mark.parametrize("wrong_answer", NO_PLATFORMS.values(), ids=NO_PLATFORMS.keys())
def test_another_server_gives_no_key(wrong_answer, machine):
    with fixed_server(wrong_answer) as seen:
        done = machine.run("login", "--url", seen.url)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr


def test_a_platform_with_another_url_is_named(machine):
    with fixed_server(NO_PLATFORMS["another one"]) as seen:
        done = machine.run("login", "--url", seen.url)
    assert "Use --url https://keys.example.org" in done.stderr


def test_an_unreachable_platform_is_reported(machine):
    done = machine.run("login", "--url", f"http://127.0.0.1:{free_port()}")
    assert (done.returncode, done.stdout) == (3, "")
    assert "can't be reached" in done.stderr
    with fixed_server(http_answer("503 No", b'{"error": "temporarily_unavailable"}')) as seen:
        assert machine.run("login", "--url", seen.url).returncode == 3


def test_plain_http_to_another_host_gives_a_warning(running, machine):
    # The key is mistyped, so nothing is sent.
    done = machine.run("check", "--url", "http://192.168.1.5:8000", COMFY_API_KEY="comfyui-1")
    assert "is sent unencrypted" in done.stderr
    assert done.returncode == 1
    done = machine.run("check", "--url", running.url, COMFY_API_KEY="comfyui-1")
    assert "unencrypted" not in done.stderr


# --- check ----------------------------------------------------------------------------------------


def test_check_names_the_owner_of_a_valid_key(running, alice, machine):
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    token = issue(running, alice.email, name="till later", seconds=3600, scopes=["proxy:*"])
    done = machine.run("check", "--url", running.url, COMFY_API_KEY=token)
    assert done.returncode == 0
    assert done.stdout.startswith(f"Valid: till later ({token[:20]}…) of ")
    assert f"<{alice.email}>, permissions proxy:*, expires {in_an_hour:%Y-%m-%d}" in done.stdout
    assert token[20:] not in done.stdout + done.stderr


def test_check_reads_a_key_from_standard_input(running, alice, machine):
    token = alice.keys[0].token
    assert machine.run("check", "--url", running.url, typed=f"{token}\n").returncode == 0
    done = machine.run(
        "check", "--stdin", COMFY_API_BASE_URL=running.url, COMFY_API_KEY="x", typed=token
    )
    assert done.returncode == 0


def test_check_gives_the_reason_of_an_invalid_key(running, alice, machine):
    key = alice.keys[0]
    running.manage("revoke_key", key.public_id)
    wrong = {
        key.token: "deleted", invented_key(): "unknown", key.token[:-2]: "It has 70 characters",
        key.token[8:]: "does not start", key.token[:8] + key.token[8:].upper(): "capital",
        key.token[:30] + "0" + key.token[30:-1]: "is wrong",
    }  # fmt: skip
    for token, words in wrong.items():
        done = machine.run("check", "--url", running.url, COMFY_API_KEY=token)
        assert done.returncode == 1
        assert words in done.stdout
        assert token[20:] not in done.stdout + done.stderr


def test_check_without_a_key_or_a_url_is_wrong_usage(running, machine):
    for arguments in (["--url", running.url], ["--url", "keys"], []):
        done = machine.run("check", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Traceback" not in done.stderr
    for arguments in ([], ["logout"], ["check", "comfyui-1"], ["login", "--bogus"]):
        assert machine.run(*arguments).returncode == 2


def test_check_without_an_answer_has_an_exit_code_of_its_own(machine):
    with fixed_server(http_answer("503 Service Unavailable")) as seen:
        done = machine.run("check", "--url", seen.url, COMFY_API_KEY=invented_key())
    assert (done.returncode, done.stdout) == (3, "")


def test_help_names_every_exit_code(machine):
    for arguments in (["--help"], ["login", "--help"], ["check", "--help"]):
        done = machine.run(*arguments)
        assert done.returncode == 0
        for code in "0", "1", "2", "3", "4", "130":
            assert f"\n  {code} " in done.stdout
