"""comfy-key: a machine without a browser comes to a key of its own, and asks if one is good."""

import re
import signal
import stat
from datetime import UTC, datetime, timedelta

import pytest
from comfy_keys import Client

from tests.comfy_keys.conftest import code_of, command, decide, http_answer, invented, stranger
from tests.comfy_keys.test_client import issue
from tests.server.conftest import TOKEN, join
from tests.servers import free_port

pytestmark = pytest.mark.server


@pytest.fixture
def machine(tmp_path):
    with command(tmp_path / "home") as machine:
        yield machine


@pytest.fixture
def alice(running):
    return join(running, keys=1)


# --- login ----------------------------------------------------------------------------------------


def test_alice_agrees_and_the_machine_prints_its_key_and_nothing_else(running, alice, machine):
    process = machine.start("login", "--url", running.url, "--name", "render box")
    decide(running, alice, code_of(process), "confirm", name="render box")
    printed, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert TOKEN.fullmatch(printed.removesuffix("\n"))
    assert printed.strip()[20:] not in said
    with Client(running.url) as client:
        verdict = client.validate(printed)
    assert (verdict.key.name, verdict.customer.email) == ("render box", alice.email)
    assert list(machine.home.iterdir()) == []


def test_it_is_written_where_it_was_asked_for_and_printed_nowhere(running, alice, machine):
    file = machine.home / ".env"
    file.write_bytes(b"# mine\nexport COMFY_API_KEY=old\nOTHER=\xff1\r\nCOMFY_API_KEY_2=x")
    file.chmod(0o644)
    process = machine.start(
        *("login", "--url", running.url, "--write-env", ".env", "--scope", "proxy:openai")
    )
    decide(running, alice, code_of(process), "confirm", name="studio")
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed) == (0, ""), said
    written = re.fullmatch(
        rb"# mine\nexport COMFY_API_KEY=(\S{72})\nOTHER=\xff1\r\nCOMFY_API_KEY_2=x",
        file.read_bytes(),
    )
    assert written
    key = written[1].decode()
    assert key[20:] not in said
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with Client(running.url) as client:
        assert client.validate(key).key.scopes == ("proxy:openai",)
    assert list(machine.home.iterdir()) == [file]


def test_alice_refuses_and_there_is_no_key(running, alice, machine):
    process = machine.start("login", "--url", running.url)
    decide(running, alice, code_of(process), "deny", name="x")
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed) == (1, "")
    assert "refused" in said


def test_a_key_that_cant_be_written_in_the_end_is_given_back(running, alice, machine):
    folder = machine.home / "gone"
    folder.mkdir()
    process = machine.start("login", "--url", running.url, "--write-env", "gone/.env")
    code = code_of(process)
    folder.rmdir()
    decide(running, alice, code, "confirm", name="studio")
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed) == (4, "")
    assert "deleted again" in said
    assert "comfyui-" not in said
    (line,) = [
        line for line in running.manage("list_keys", alice.email).splitlines() if "studio" in line
    ]
    assert line.split()[1] == "revoked"
    assert "Traceback" not in said


def test_ctrl_c_stops_without_a_traceback(running, machine):
    process = machine.start("login", "--url", running.url)
    code_of(process)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, "")
    assert said.endswith("Stopped.\n")
    assert "Traceback" not in said


def test_a_place_that_cant_be_written_to_is_said_before_anything_is_asked_for(machine):
    folder = machine.home / "taken"
    folder.mkdir()
    with stranger(http_answer("404 Not Found")) as seen:
        for place in ("taken", "missing/.env", "/dev/null"):
            told = machine.run("login", "--url", seen.url, "--write-env", place)
            assert (told.returncode, told.stdout) == (2, "")
            assert "Nothing can be written" in told.stderr
        assert seen.requests == []
    assert list(folder.iterdir()) == []


def test_a_store_of_comfy_clis_that_cant_be_read_is_left_as_it_is(machine):
    for content in (b"not JSON", b"[]", b'{"providers": []}', b"\xff"):
        store = machine.home / "secrets.json"
        store.write_bytes(content)
        with stranger(http_answer("404 Not Found")) as seen:
            told = machine.run(
                "login", "--url", seen.url, "--comfy-cli", COMFY_SECRETS_PATH=str(store)
            )
            assert seen.requests == []
        assert told.returncode == 2, told.stderr
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


@pytest.mark.parametrize("said", NO_PLATFORMS.values(), ids=NO_PLATFORMS.keys())
def test_what_is_no_platform_gives_no_key(said, machine):
    with stranger(said) as seen:
        told = machine.run("login", "--url", seen.url)
    assert (told.returncode, told.stdout) == (1, ""), told.stderr
    assert "Traceback" not in told.stderr
    assert "\x1b" not in told.stderr


def test_a_platform_under_another_name_says_which(machine):
    with stranger(NO_PLATFORMS["another one"]) as seen:
        told = machine.run("login", "--url", seen.url)
    assert "Use --url https://keys.example.org" in told.stderr


def test_where_nobody_listens_or_all_is_down_it_says_so(machine):
    told = machine.run("login", "--url", f"http://127.0.0.1:{free_port()}")
    assert (told.returncode, told.stdout) == (3, "")
    assert "can't be reached" in told.stderr
    with stranger(http_answer("503 No", b'{"error": "temporarily_unavailable"}')) as seen:
        assert machine.run("login", "--url", seen.url).returncode == 3


def test_plain_http_to_another_machine_is_warned_of(running, machine):
    # A mistyped key: nothing is sent.
    told = machine.run("check", "--url", "http://192.168.1.5:8000", COMFY_API_KEY="comfyui-1")
    assert "crosses the network in the clear" in told.stderr
    assert told.returncode == 1
    told = machine.run("check", "--url", running.url, COMFY_API_KEY="comfyui-1")
    assert "in the clear" not in told.stderr


# --- check ----------------------------------------------------------------------------------------


def test_check_says_whose_a_good_key_is(running, alice, machine):
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    token = issue(running, alice.email, name="till later", seconds=3600, scopes=["proxy:*"])
    told = machine.run("check", "--url", running.url, COMFY_API_KEY=token)
    assert told.returncode == 0
    assert told.stdout.startswith(f"Good: till later ({token[:20]}…) of ")
    assert f"<{alice.email}>, for proxy:*, until {in_an_hour:%Y-%m-%d}" in told.stdout
    assert token[20:] not in told.stdout + told.stderr


def test_check_reads_a_key_from_standard_input(running, alice, machine):
    token = alice.keys[0].token
    assert machine.run("check", "--url", running.url, typed=f"{token}\n").returncode == 0
    told = machine.run(
        "check", "--stdin", COMFY_API_BASE_URL=running.url, COMFY_API_KEY="x", typed=token
    )
    assert told.returncode == 0


def test_check_says_what_is_wrong(running, alice, machine):
    key = alice.keys[0]
    running.manage("revoke_key", key.public_id)
    wrong = {
        key.token: "deleted", invented(): "not known", key.token[:-2]: "It has 70 characters",
        key.token[8:]: "does not begin", key.token[:8] + key.token[8:].upper(): "capital",
        key.token[:30] + "0" + key.token[30:-1]: "wrong, or changed places",
    }  # fmt: skip
    for token, words in wrong.items():
        told = machine.run("check", "--url", running.url, COMFY_API_KEY=token)
        assert told.returncode == 1
        assert words in told.stdout
        assert token[20:] not in told.stdout + told.stderr


def test_check_without_a_key_or_an_address_is_wrong_usage(running, machine):
    for arguments in (["--url", running.url], ["--url", "keys"], []):
        told = machine.run("check", *arguments)
        assert (told.returncode, told.stdout) == (2, "")
        assert "Traceback" not in told.stderr
    for arguments in ([], ["logout"], ["check", "comfyui-1"], ["login", "--bogus"]):
        assert machine.run(*arguments).returncode == 2


def test_a_platform_that_cant_say_is_neither_good_nor_bad(machine):
    with stranger(http_answer("503 Service Unavailable")) as seen:
        told = machine.run("check", "--url", seen.url, COMFY_API_KEY=invented())
    assert (told.returncode, told.stdout) == (3, "")


def test_help_names_every_exit_code(machine):
    for arguments in (["--help"], ["login", "--help"], ["check", "--help"]):
        told = machine.run(*arguments)
        assert told.returncode == 0
        for code in "0", "1", "2", "3", "4", "130":
            assert f"\n  {code} " in told.stdout
