"""Security headers, cookies, HSTS and hosts, of all kinds of responses."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from django.http import HttpResponseBase
from django.test import Client

from tests.config.test_environment import LONG, ROOT, start
from tests.conftest import PASSWORD, show_who

YEAR = 365 * 24 * 3600

# A path of each kind, and its status for an anonymous client.
KINDS = {
    "/login": 200,
    "/keys/": 302,
    "/nowhere": 404,
    "/static/nothing.js": 404,
    "/customers": 401,
    "/customers/nothing": 404,
    "/api/v1/auth": 401,
    "/api/docs/": 200,
    "/api/docs/?script=": 200,
    "/api/schema": 200,
    "/admin/": 302,
    "/admin/verify-api-key": 405,
    "/oauth/token": 405,
    "/oauth/authorize": 400,
    "/.well-known/oauth-authorization-server": 200,
    "/health": 200,
    "/ready": 200,
    "/releases": 200,
}


def policy(answer: HttpResponseBase) -> dict[str, list[str]]:
    directives = (part.split() for part in answer["Content-Security-Policy"].split(";"))
    return {name: sources for name, *sources in directives}


# The KINDS that are for programs.
FOR_PROGRAMS = {
    path
    for path in KINDS
    if path.startswith(("/cust", "/api/v1", "/api/sch", "/admin/verify", "/oauth/token", "/.well"))
} | {"/health", "/ready", "/releases", "/api/docs/?script="}
PAGE_HEADERS = ("X-Frame-Options", "Cross-Origin-Opener-Policy", "Permissions-Policy")


def assert_guarded(answer: HttpResponseBase, *, is_page: bool) -> None:
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Referrer-Policy"] == "same-origin"
    directives = policy(answer)
    assert (
        directives["default-src"]
        == directives["base-uri"]
        == directives["frame-ancestors"]
        == ["'none'"]
    )
    assert not re.search("unsafe|https?:(?!//)|[*]", str({**directives, "form-action": []}))
    if is_page:
        assert answer["X-Frame-Options"] == "DENY"
        assert answer["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer["Permissions-Policy"].endswith("xr-spatial-tracking=()")
    else:
        assert len(directives) == 3
        assert not [name for name in PAGE_HEADERS if name in answer]


@pytest.mark.parametrize("path", KINDS)
def test_all_kinds_of_responses_have_security_headers(client, db, path):
    answer = client.get(path)
    assert answer.status_code == KINDS[path]
    assert_guarded(answer, is_page=path not in FOR_PROGRAMS)


@pytest.mark.parametrize(
    "path",
    ["/keys/", "/keys/?new=1", "/usage/", "/account/", "/account/factors", "/account/data",
     "/account/logins", "/customers/api-keys"],
)  # fmt: skip
def test_pages_and_answers_with_account_data_are_not_stored(client, alice, path):
    client.force_login(alice)
    show_who(client, alice)
    answer = client.get(path)
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"].split(", ")


@pytest.mark.parametrize("path", ["/login", "/customers/me"])
def test_responses_to_a_wrong_host_have_security_headers(client, db, path):
    answer = client.get(path, headers={"Host": "evil.example"})
    assert answer.status_code == 400
    assert_guarded(answer, is_page=path == "/login")


@pytest.mark.parametrize("path", KINDS)
def test_other_origins_may_load_the_api_and_nothing_else(client, db, path):
    answer = client.get(path)
    is_for_programs = path in FOR_PROGRAMS
    wanted = "cross-origin" if is_for_programs else "same-origin"
    assert answer["Cross-Origin-Resource-Policy"] == wanted
    if not is_for_programs:
        assert "Access-Control-Allow-Origin" not in answer


# --- Scripts ---------------------------------------------------------------------------------


def nonce_of(answer: HttpResponseBase) -> str:
    (source,) = policy(answer)["script-src"]
    found = re.fullmatch(r"'nonce-([\w-]{22})'", source)
    assert found, source
    return found[1]


def scripts(answer: HttpResponseBase) -> list[str]:
    """Return the tags of executable scripts, without data blocks."""
    tags = re.findall(r"<script\b[^>]*>", answer.text)
    return [tag for tag in tags if 'type="application/json"' not in tag]


@pytest.mark.parametrize(
    "path",
    ["/login", "/signup", "/connect", "/api/docs/", "/keys/", "/account/", "/admin/",
     "/admin/accounts/user/", "/admin/accounts/user/add/", "/admin/apikeys/apikey/"],
)  # fmt: skip
def test_only_scripts_with_the_nonce_of_the_response_run(
    signed_in: Callable[..., Client], sam, client, path: str
) -> None:
    visitor = client if path in {"/login", "/signup"} else signed_in(sam)
    first, second = visitor.get(path), visitor.get(path)
    for answer in (first, second):
        assert answer.status_code == 200
        tags = scripts(answer)
        assert tags
        for tag in tags:
            assert f'nonce="{nonce_of(answer)}"' in tag
            assert " src=" in tag, "no inline scripts, even with a nonce"
        assert not re.search(r"""<style|\sstyle=|\son\w+=["']|javascript:""", answer.text)
    assert nonce_of(first) != nonce_of(second)


@pytest.mark.parametrize("path", ["/nowhere", "/customers", "/static/nothing.js", "/health"])
def test_a_response_without_scripts_allows_none(client, db, path):
    answer = client.get(path)
    assert "script-src" not in policy(answer)
    assert policy(answer)["default-src"] == ["'none'"]
    if path == "/nowhere":
        assert scripts(answer) == []


def test_pages_require_trusted_types(client, db):
    directives = policy(client.get("/login"))
    assert directives["require-trusted-types-for"] == ["'script'"]
    assert directives["trusted-types"] == ["'none'"]


def test_styles_are_loaded_from_static_files_only(client, db, signed_in, sam):
    signed_in(sam)
    for path in ("/login", "/api/docs/", "/admin/"):
        assert policy(client.get(path))["style-src"] == ["'self'"]


def test_pages_may_use_the_clipboard_and_passkeys_only(client, db):
    header = client.get("/login")["Permissions-Policy"]
    permissions = dict(one.split("=") for one in header.split(", "))
    assert {name for name, allowed in permissions.items() if allowed != "()"} == {
        "clipboard-write",
        "publickey-credentials-create",
        "publickey-credentials-get",
    }
    assert {"camera", "geolocation", "microphone", "clipboard-read", "usb"} <= permissions.keys()
    assert set(permissions.values()) == {"()", "(self)"}


# --- Cookies ---------------------------------------------------------------------------------


def test_all_cookies_are_httponly_and_samesite(client, alice):
    page = client.get("/login")
    client.post("/language", {"language": "ja"})
    client.post("/login", {"login": alice.email, "password": PASSWORD})
    names = {cookie.partition("_")[0] for cookie in client.cookies}
    assert names == {"csrf", "device", "language", "session"}
    for cookie in (*page.cookies.values(), *client.cookies.values()):
        assert cookie["httponly"], cookie.key
        assert cookie["samesite"] == "Lax", cookie.key
        assert (cookie["path"], cookie["domain"]) == ("/", ""), cookie.key


def test_on_https_all_cookies_have_the_host_prefix(tmp_path):
    names = ("SESSION", "CSRF", "LANGUAGE")
    shown = [f"{name}_COOKIE_{what}" for what in ("NAME", "SECURE") for name in names]
    directives = start(tmp_path, *shown, PUBLIC_URL="https://keys.example").stdout.split()
    assert directives == [
        "__Host-session",
        "__Host-csrf",
        "__Host-language",
        "True",
        "True",
        "True",
    ]


# --- Strict transport ------------------------------------------------------------------------


# Loads the settings with each set of variables, since a process for each takes half a second.
LOAD_HSTS = """
import json, os, sys
for variables in json.loads(sys.argv[1]):
    os.environ.update(variables)
    from config import settings
    print(settings.SECURE_HSTS_SECONDS)
    for name in variables:
        del os.environ[name]
    for name in [name for name in sys.modules if name.partition(".")[0] == "config"]:
        del sys.modules[name]
"""


def hsts(tmp_path, *environments: dict[str, str]) -> list[int]:
    """Return the seconds for each set of variables."""
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD_HSTS, json.dumps(environments)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "VAR_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr
    return [int(line) for line in loaded.stdout.split()]


def test_https_on_the_default_port_sends_hsts_for_a_year(tmp_path):
    production = {
        "PRODUCTION": "1",
        "SECRET_KEY": LONG,
        "KEY_PEPPER": LONG,
        "DATABASE_URL": f"sqlite:///{tmp_path}/x.sqlite3",
        "EMAIL_URL": "smtp://127.0.0.1:9",
    }
    urls = ("https://keys.example", "https://keys.example:443")
    assert hsts(tmp_path, *({"PUBLIC_URL": url, **production} for url in urls)) == [YEAR, YEAR]


def test_hsts_is_not_sent_where_it_would_break_other_services(tmp_path):
    cases = [
        (YEAR, {"PUBLIC_URL": "https://keys.example"}),
        (0, {"PUBLIC_URL": "http://keys.example"}),
        (0, {"PUBLIC_URL": "http://keys.example", "HSTS_SECONDS": "60"}),
        # ComfyUI may be on another port of this host, on plain http.
        (0, {"PUBLIC_URL": "https://studio.lan:8000"}),
        (60, {"PUBLIC_URL": "https://studio.lan:8000", "HSTS_SECONDS": "60"}),
        (0, {"PUBLIC_URL": "https://keys.example", "HSTS_SECONDS": "0"}),
        # localhost serves other programs too.
        (0, {"TLS": "1"}),
        (0, {"PUBLIC_URL": "https://localhost", "HSTS_SECONDS": "60"}),
    ]
    sent = hsts(tmp_path, *(variables for _seconds, variables in cases))
    assert [*zip(sent, (variables for _seconds, variables in cases), strict=True)] == cases


# --- Hosts -----------------------------------------------------------------------------------


def test_listed_hosts_are_allowed(tmp_path):
    started = start(
        tmp_path,
        "ALLOWED_HOSTS",
        "CSRF_TRUSTED_ORIGINS",
        PUBLIC_URL="http://Studio.lan:8000",
        ALLOWED_HOSTS="192.168.1.20, Keys.lan fd00::1 [fd00::2]",
    )
    hosts, origins = started.stdout.splitlines()
    assert hosts == "['studio.lan', '192.168.1.20', 'keys.lan', '[fd00::1]', '[fd00::2]']"
    assert "'http://192.168.1.20:8000'" in origins
    assert "'http://[fd00::1]:8000'" in origins


NO_HOSTS = {
    "*": "is a pattern",
    "*.example.org": "is a pattern",
    ".example.org": "is a pattern",
    "http://studio.lan": "is no host",
    "studio.lan:8000": "is no host",
    "studio.lan/keys": "is no host",
    "a@studio.lan": "is no host",
    "[::1": "is no host",
}


@pytest.mark.parametrize("production", [{}, {"PRODUCTION": "1"}])
def test_patterns_in_allowed_hosts_are_rejected(tmp_path, production):
    given = ",".join(["studio.lan", *NO_HOSTS])
    started = start(tmp_path, PUBLIC_URL="http://studio.lan", ALLOWED_HOSTS=given, **production)
    assert started.returncode == 1
    (report,) = re.findall(r"^  ALLOWED_HOSTS: (.+)$", started.stderr, re.MULTILINE)
    faults = re.findall(r"has '(.+?)', which (.+?)(?= has '|$)", report)
    assert [host for host, _words in faults] == [*NO_HOSTS]
    assert [host for host, words in faults if not words.startswith(NO_HOSTS[host])] == []
