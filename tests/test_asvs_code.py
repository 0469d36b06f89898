"""What our code does not do anywhere, and where it does what has to be known of (docs/asvs.md)."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test import Client

from audit.models import Action

ROOT = Path(__file__).parents[1]
ROOMS = (
    "accounts", "apikeys", "audit", "backups", "fastlane", "oauth", "outbox", "platform", "staff",
)  # fmt: skip
SOURCES = sorted(
    path
    for room in ROOMS
    for path in (ROOT / room).rglob("*.py")
    if "migrations" not in path.relative_to(ROOT).parts
)
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))
SCRIPTS = sorted((ROOT / "static" / "js").glob("*.js"))
DOCUMENT = ROOT / "docs" / "asvs.md"


def section(title: str) -> str:
    """What stands below this heading, up to the next of its kind."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", DOCUMENT.read_text(), re.M | re.S)
    assert found, title
    return found[1]


def calls(path: Path) -> Iterator[str]:
    """`os.system`, `eval`: what is called in a file, as it is written there."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def where(*names: str) -> set[str]:
    """The files of ours that import one of these."""
    return {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if any(
            known == name or known.startswith(f"{name}.")
            for known in imports(path)
            for name in names
        )
    }


def test_there_are_files_to_look_at():
    assert len(SOURCES) > 100
    assert len(TEMPLATES) > 80
    assert len(SCRIPTS) >= 4
    assert "subprocess.Popen" in set(calls(ROOT / "tests" / "servers.py"))


# --- Never -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eval", "exec", "compile", "__import__", "os.system", "os.popen"])
def test_no_text_becomes_code_or_a_command(name):
    assert [path for path in SOURCES if name in set(calls(path))] == []


def test_no_command_goes_through_a_shell():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                assert ast.unparse(node.value) == "False", path


@pytest.mark.parametrize(
    "library",
    ["marshal", "shelve", "yaml", "xml", "lxml", "ldap", "ldap3", "jinja2", "markdown",
     "defusedxml", "graphene", "strawberry", "channels", "websockets",
     "tempfile.mktemp", "telnetlib",
     "ftplib", "random", "uuid.uuid1", "hashlib.md5", "hashlib.sha1", "pymemcache"],
)  # fmt: skip
def test_what_is_risky_is_not_used_at_all(library):
    assert where(library) == set()


def test_pickles_are_named_to_be_refused_and_never_read():
    """The cache that Django's own would be filled with is replaced by one of JSON."""
    assert where("pickle") == {"platform/config/cache.py"}
    assert not {"pickle.load", "pickle.loads"} & set(calls(ROOT / "platform/config/cache.py"))


def test_no_template_is_made_of_what_somebody_sent():
    makers = {"Template", "engines.from_string", "Engine", "template.Template"}
    assert [path for path in SOURCES if makers & set(calls(path))] == []


def test_markup_is_escaped_everywhere_but_for_help_texts_of_forms():
    off = {
        str(path.relative_to(ROOT))
        for path in TEMPLATES
        if re.search(r"\|\s*safe\b|autoescape off|safeseq", path.read_text())
    }
    # Help of ours and of Django's, in which nobody writes.
    assert off == {"templates/forms/field.html"}
    assert [path for path in SOURCES if "mark_safe" in set(calls(path))] == []


def test_no_file_is_taken_from_anybody():
    for path in SOURCES:
        text = path.read_text()
        assert "FileField" not in text, path
        assert "request.FILES" not in text, path
    assert [path for path in TEMPLATES if 'type="file"' in path.read_text()] == []


@pytest.mark.parametrize(
    "word",
    ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function",
     "postMessage", "localStorage", "sessionStorage", "indexedDB", "document.cookie", "window.name",
     "WebSocket", "RTCPeerConnection", "__proto__", "setTimeout(\"", "caches."],
)  # fmt: skip
def test_our_scripts_neither_make_markup_nor_keep_anything(word):
    assert [script.name for script in SCRIPTS if word in script.read_text()] == []


def test_our_scripts_are_modules_or_keep_their_names_to_themselves():
    """None of our variables is a property of the window, where an element's id could stand."""
    for script in SCRIPTS:
        assert not re.search(
            r"^\s*(window|document|globalThis)\.\w+\s*=(?!=)", script.read_text(), re.M
        )


def test_nothing_in_a_page_comes_from_another_host():
    for path in TEMPLATES:
        if path.parent.name == "email" or path.name == "mail.html":
            continue
        for found in re.findall(
            r"<(?:script|link|img|iframe|source)[^>]*(?:src|href)=\"([^\"]*)", path.read_text()
        ):
            assert not found.startswith(("http:", "https:", "//")), path


def test_queries_with_text_in_them_have_names_of_ours_alone():
    """No f-string of SQL but with a reason beside it (S608), and none of what somebody sent."""
    for path in SOURCES:
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            if re.search(r"execute\(\s*f[\"']", line):
                assert "noqa: S608" in line, f"{path}:{number + 1}"
        assert not {"RawSQL", "objects.raw", "objects.extra"} & set(calls(path)), path


def test_secrets_are_compared_in_constant_time():
    """Where a MAC, a code or a service's secret is compared, it is by compare_digest."""
    comparing = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if {"hmac.compare_digest", "constant_time_compare", "compare_digest"} & set(calls(path))
    }
    assert {
        "apikeys/tokens.py", "apikeys/api/authentication.py", "accounts/mailcodes.py",
    } <= comparing  # fmt: skip


# --- Documented ------------------------------------------------------------------------------


def test_every_file_that_uses_cryptography_is_in_the_inventory():
    using = where(
        "hashlib", "hmac", "secrets", "cryptography", "argon2", "trustme", "ssl", "jwt", "zlib",
        "django.core.signing", "django.utils.crypto", "django.contrib.auth.hashers",
    )  # fmt: skip
    listed = set(re.findall(r"`([\w/]+\.py)`", section("Cryptography in use")))
    assert using - listed == set()
    # Nor does the inventory name what is gone.
    assert {name for name in listed if not (ROOT / name).exists()} == set()


def test_every_room_that_writes_lines_is_in_the_inventory_of_logs():
    writing = {name.partition("/")[0] for name in where("logging")} - {"platform"}
    listed = set(re.findall(r"`(\w+)`", section("What is logged")))
    assert writing - listed == set()


def test_every_event_of_the_trail_is_in_the_inventory_of_logs():
    listed = section("What is logged")
    assert [action.value for action in Action if f"`{action.value}`" not in listed] == []


def test_every_file_that_talks_to_somebody_is_listed():
    talking = where(
        "requests", "urllib.request", "http.client", "httpx", "socket", "smtplib", "psycopg",
        "redis", "subprocess",
    )  # fmt: skip
    listed = set(re.findall(r"`([\w/]+\.py)`", section("Whom it talks to")))
    assert talking - listed == set()


def test_lifetimes_are_documented_as_they_are(settings):
    told = section("Sessions")
    assert settings.SESSION_IDLE.days == 14
    assert settings.SESSION_LIFETIME.days == 30
    assert settings.STAFF_IDLE.total_seconds() == 30 * 60
    assert settings.STAFF_LIFETIME.total_seconds() == 12 * 3600
    for words in ("14 days", "30 days", "30 minutes", "12 hours"):
        assert words in told


def test_limits_are_documented_as_they_are(settings):
    told = section("Limits")
    for name, value in settings.ACCOUNT_RATE_LIMITS.items():
        assert f"`{name}`" in told, name
        assert f"`{value}`" in told, value
    for name in (
        "KEYS_PER_ACCOUNT",
        "NEW_KEYS_PER_HOUR",
        "GUESSES_PER_MINUTE",
        "ARGON2_CONCURRENCY",
    ):
        assert f"`{name}`" in told, name


# --- Cookies ---------------------------------------------------------------------------------


def test_no_cookie_is_larger_than_a_browser_keeps(alice):
    client = Client()
    client.post("/login", {"login": alice.email, "password": "correct horse battery staple"})
    client.post("/language", {"language": "ja"})
    assert len(client.cookies) >= 3
    for cookie in client.cookies.values():
        assert len(cookie.key) + len(cookie.value) < 1024
