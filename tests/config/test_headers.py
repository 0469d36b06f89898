"""What every answer tells a browser, whoever gave it."""

import re
from collections.abc import Callable

import pytest
from django.http import HttpResponseBase
from django.test import Client

from config import middleware
from tests.config.test_environment import LONG, start
from tests.conftest import PASSWORD

# One address of each kind, and the status that it has for whoever is not signed in.
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


# Those of KINDS that programs read.
FOR_PROGRAMS = {
    path
    for path in KINDS
    if path.startswith(("/cust", "/api/v1", "/api/sch", "/admin/verify", "/oauth/token", "/.well"))
} | {"/health", "/ready", "/releases", "/api/docs/?script="}
# What is about pages.
OF_PAGES = ("X-Frame-Options", "Cross-Origin-Opener-Policy", "Permissions-Policy")


def assert_guarded(answer: HttpResponseBase, *, is_page: bool) -> None:
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Referrer-Policy"] == "same-origin"
    said = policy(answer)
    assert said["default-src"] == said["base-uri"] == said["frame-ancestors"] == ["'none'"]
    assert not re.search("unsafe|https?:(?!//)|[*]", str({**said, "form-action": []}))
    if is_page:
        assert answer["X-Frame-Options"] == "DENY"
        assert answer["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer["Permissions-Policy"].endswith("xr-spatial-tracking=()")
    else:
        assert len(said) == 3
        assert not [name for name in OF_PAGES if name in answer]


@pytest.mark.parametrize("path", KINDS)
def test_every_kind_of_answer_is_guarded(client, db, path):
    answer = client.get(path)
    assert answer.status_code == KINDS[path]
    assert_guarded(answer, is_page=path not in FOR_PROGRAMS)


@pytest.mark.parametrize("path", ["/login", "/customers/me"])
def test_so_are_answers_to_a_wrong_host(client, db, path):
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
    """The tags of scripts that run. Blocks of data do not."""
    tags = re.findall(r"<script\b[^>]*>", answer.text)
    return [tag for tag in tags if 'type="application/json"' not in tag]


@pytest.mark.parametrize(
    "path",
    ["/login", "/signup", "/connect", "/api/docs/", "/keys/", "/account/", "/admin/",
     "/admin/accounts/user/", "/admin/accounts/user/add/", "/admin/apikeys/apikey/"],
)  # fmt: skip
def test_only_tags_with_this_answers_nonce_run(
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
            assert " src=" in tag, "nothing inline, nonce or not"
        assert not re.search(r"""<style|\sstyle=|\son\w+=["']|javascript:""", answer.text)
    assert nonce_of(first) != nonce_of(second)


@pytest.mark.parametrize("path", ["/nowhere", "/customers", "/static/nothing.js", "/health"])
def test_where_there_is_no_tag_no_script_runs(client, db, path):
    answer = client.get(path)
    assert "script-src" not in policy(answer)
    assert policy(answer)["default-src"] == ["'none'"]
    if path == "/nowhere":
        assert scripts(answer) == []


def test_text_becomes_no_markup_on_our_own_pages(client, db):
    said = policy(client.get("/login"))
    assert said["require-trusted-types-for"] == ["'script'"]
    assert said["trusted-types"] == ["'none'"]


def test_styles_come_from_our_files_alone(client, db, signed_in, sam):
    signed_in(sam)
    for path in ("/login", "/api/docs/", "/admin/"):
        assert policy(client.get(path))["style-src"] == ["'self'"]


def test_a_browser_is_asked_for_copying_and_passkeys_alone():
    permissions = dict(one.split("=") for one in middleware._PERMISSIONS.split(", "))
    assert {name for name, allowed in permissions.items() if allowed != "()"} == {
        "clipboard-write",
        "publickey-credentials-create",
        "publickey-credentials-get",
    }
    assert {"camera", "geolocation", "microphone", "clipboard-read", "usb"} <= permissions.keys()
    assert set(permissions.values()) == {"()", "(self)"}


# --- Cookies ---------------------------------------------------------------------------------


def test_every_cookie_is_kept_from_scripts_and_other_sites(client, alice):
    page = client.get("/login")
    client.post("/language", {"language": "ja"})
    client.post("/login", {"login": alice.email, "password": PASSWORD})
    names = {cookie.partition("_")[0] for cookie in client.cookies}
    assert names == {"csrf", "device", "language", "session"}
    for cookie in (*page.cookies.values(), *client.cookies.values()):
        assert cookie["httponly"], cookie.key
        assert cookie["samesite"] == "Lax", cookie.key
        assert (cookie["path"], cookie["domain"]) == ("/", ""), cookie.key


def test_on_https_every_cookie_is_the_hosts_own(tmp_path):
    names = ("SESSION", "CSRF", "LANGUAGE")
    shown = [f"{name}_COOKIE_{what}" for what in ("NAME", "SECURE") for name in names]
    said = start(tmp_path, *shown, PUBLIC_URL="https://keys.example").stdout.split()
    assert said == ["__Host-session", "__Host-csrf", "__Host-language", "True", "True", "True"]


# --- Strict transport ------------------------------------------------------------------------


def hsts(tmp_path, **variables: str) -> int:
    started = start(tmp_path, "SECURE_HSTS_SECONDS", **variables)
    assert started.stdout, started.stderr
    return int(started.stdout)


@pytest.mark.parametrize("url", ["https://keys.example", "https://keys.example:443"])
def test_a_name_that_is_served_by_tls_is_so_for_a_year(tmp_path, url):
    production = {
        "PRODUCTION": "1",
        "SECRET_KEY": LONG,
        "KEY_PEPPER": LONG,
        "DATABASE_URL": f"sqlite:///{tmp_path}/x.sqlite3",
        "EMAIL_URL": "smtp://127.0.0.1:9",
    }
    assert hsts(tmp_path, PUBLIC_URL=url, **production) == 365 * 24 * 3600


@pytest.mark.parametrize(
    ("seconds", "variables"),
    [
        (365 * 24 * 3600, {"PUBLIC_URL": "https://keys.example"}),
        (0, {"PUBLIC_URL": "http://keys.example"}),
        (0, {"PUBLIC_URL": "http://keys.example", "HSTS_SECONDS": "60"}),
        # ComfyUI is on another port of that name, perhaps by http.
        (0, {"PUBLIC_URL": "https://studio.lan:8000"}),
        (60, {"PUBLIC_URL": "https://studio.lan:8000", "HSTS_SECONDS": "60"}),
        (0, {"PUBLIC_URL": "https://keys.example", "HSTS_SECONDS": "0"}),
        # One's own machine has more than this on it.
        (0, {"TLS": "1"}),
        (0, {"PUBLIC_URL": "https://localhost", "HSTS_SECONDS": "60"}),
    ],
)
def test_it_is_not_said_where_it_would_break_other_things(tmp_path, seconds, variables):
    assert hsts(tmp_path, **variables) == seconds


# --- Hosts -----------------------------------------------------------------------------------


def test_other_names_are_answered_if_they_are_listed(tmp_path):
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


@pytest.mark.parametrize("production", [{}, {"PRODUCTION": "1"}])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("*", "is a pattern"),
        ("studio.lan,*", "is a pattern"),
        ("*.example.org", "is a pattern"),
        (".example.org", "is a pattern"),
        ("http://studio.lan", "is no host"),
        ("studio.lan:8000", "is no host"),
        ("studio.lan/keys", "is no host"),
        ("a@studio.lan", "is no host"),
        ("[::1", "is no host"),
    ],
)
def test_a_pattern_in_place_of_hosts_is_refused(tmp_path, production, given, words):
    started = start(tmp_path, PUBLIC_URL="http://studio.lan", ALLOWED_HOSTS=given, **production)
    assert started.returncode == 1
    (fault,) = re.findall(r"^  ALLOWED_HOSTS: (.+)$", started.stderr, re.MULTILINE)
    assert words in fault
