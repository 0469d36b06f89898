"""Rules for the source code, and the inventories in docs/asvs.md."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from allauth.account import app_settings
from django.contrib.auth.password_validation import get_default_password_validators
from django.test import Client

from accounts.models import User
from apikeys.models import APIKey
from audit.models import Action

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "accounts", "apikeys", "audit", "backups", "core", "oauth", "outbox", "platform", "sites",
    "staff", "uploads",
)  # fmt: skip
SOURCES = sorted(
    path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if "migrations" not in path.relative_to(ROOT).parts
)
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))
SCRIPTS = sorted((ROOT / "static" / "js").glob("*.js"))
DOCUMENT = ROOT / "docs" / "asvs.md"


def section(title: str) -> str:
    """Return the text below this heading, up to the next heading of its level."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", DOCUMENT.read_text(), re.M | re.S)
    assert found, title
    return found[1]


# Parsing all sources takes longer than all tests of this module.
@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def calls(path: Path) -> set[str]:
    """Return the names that a file calls, as they are written: `os.system`, `eval`."""
    return {ast.unparse(node.func) for node in nodes(path) if isinstance(node, ast.Call)}


@cache
def imports(path: Path) -> set[str]:
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def where(*names: str) -> set[str]:
    """Return the source files that import one of these modules."""
    return {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if any(
            known == name or known.startswith(f"{name}.")
            for known in imports(path)
            for name in names
        )
    }


def test_there_are_files_to_check():
    assert len(SOURCES) > 100
    assert len(TEMPLATES) > 80
    assert len(SCRIPTS) >= 4
    assert "subprocess.Popen" in calls(ROOT / "tests" / "platforms.py")


# --- Forbidden code --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eval", "exec", "compile", "__import__", "os.system", "os.popen"])
def test_no_text_becomes_code_or_a_command(name):
    assert [path for path in SOURCES if name in calls(path)] == []


def test_no_command_uses_a_shell():
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                assert ast.unparse(node.value) == "False", path


@pytest.mark.parametrize(
    "library",
    ["marshal", "shelve", "yaml", "xml", "lxml", "ldap", "ldap3", "jinja2", "markdown",
     "defusedxml", "graphene", "strawberry", "channels", "websockets",
     "tempfile.mktemp", "telnetlib",
     "ftplib", "random", "uuid.uuid1", "hashlib.md5", "hashlib.sha1", "pymemcache"],
)  # fmt: skip
def test_risky_functions_are_not_used(library):
    assert where(library) == set()


def test_pickle_is_never_loaded():
    """Django's caches pickle by default; ours use JSON."""
    assert where("pickle") == {"core/cache.py"}
    assert not {"pickle.load", "pickle.loads"} & calls(ROOT / "core/cache.py")


def test_programs_are_started_by_commands_of_the_operator_only():
    assert where("subprocess") == {
        "backups/postgresql.py",
        "backups/restore.py",
        "platform/server/management/commands/copy_to.py",
    }
    starters = ("os.exec", "os.spawn", "os.posix_spawn", "pty.", "asyncio.create_subprocess")
    assert [
        path for path in SOURCES if any(name.startswith(starters) for name in calls(path))
    ] == []


def test_no_code_of_development_is_imported():
    assert where("tests", "bench", "scripts", "pytest", "hypothesis", "debug_toolbar") == set()


def test_no_template_is_made_from_input():
    makers = {"Template", "engines.from_string", "Engine", "template.Template"}
    assert [path for path in SOURCES if makers & calls(path)] == []


def test_markup_is_escaped_everywhere_except_help_texts():
    off = {
        str(path.relative_to(ROOT))
        for path in TEMPLATES
        if re.search(r"\|\s*safe\b|autoescape off|safeseq", path.read_text())
    }
    # Help texts of this project and of Django, which contain no input.
    assert off == {"templates/forms/field.html"}
    assert [path for path in SOURCES if "mark_safe" in calls(path)] == []


def test_no_page_accepts_files():
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
def test_our_scripts_neither_write_markup_nor_use_storage(word):
    # The server sets all cookies but that of the time zone, which only the browser knows.
    writers = {"timezone.js"} if word == "document.cookie" else set()
    assert {script.name for script in SCRIPTS if word in script.read_text()} == writers


def test_our_scripts_set_no_member_by_a_name_from_input():
    """With such a name, `__proto__` or `constructor` would change other objects."""
    parsing = re.compile(r"JSON\.parse|\.json\(|URLSearchParams|location\.(?:search|hash)")
    assert {one.name for one in SCRIPTS if parsing.search(one.read_text())} == {
        "first-use.js",
        "passkeys.js",
    }
    # `a[b] = c`, `for (a in b)`, and computed names in literals, but no destructuring.
    computed = re.compile(r"\w\[[^\]\d]+\]\s*=[^=]|for \([^)]* in |[{,]\s*\[[^\]]+\]:|fromEntries")
    assert computed.search("options[name] = value")
    assert [one.name for one in SCRIPTS if computed.search(one.read_text())] == []


def test_our_scripts_are_modules_and_define_no_globals():
    """Names of a module are not on `window`, so element ids can't replace them."""
    loaded = [
        tag
        for path in TEMPLATES
        for tag in re.findall(r"<script\b[^>]*>", path.read_text())
        if "static 'js/" in tag
    ]
    assert len(loaded) >= 2
    assert [tag for tag in loaded if 'type="module"' not in tag] == []
    for script in SCRIPTS:
        assert not re.search(
            r"^\s*(window|document|globalThis)\.(?!cookie)\w+\s*=(?!=)", script.read_text(), re.M
        )


def test_pages_load_nothing_from_other_hosts():
    for path in TEMPLATES:
        if path.parent.name == "email" or path.name == "mail.html":
            continue
        for found in re.findall(
            r"<(?:script|link|img|iframe|source)[^>]*(?:src|href)=\"([^\"]*)", path.read_text()
        ):
            assert not found.startswith(("http:", "https:", "//")), path


def test_sql_contains_only_our_own_identifiers():
    """SQL that is formatted has a reason beside it (S608), and contains no input."""
    for path in SOURCES:
        lines = path.read_text().splitlines()
        for node in nodes(path):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name, sql = ast.unparse(node.func).rpartition(".")[2], node.args[0]
            if name not in {"execute", "executemany"}:
                continue
            if isinstance(sql, ast.JoinedStr):
                written = "\n".join(lines[node.lineno - 1 : sql.end_lineno])
                assert "noqa: S608" in written, f"{path}:{sql.lineno}"
            if isinstance(sql, ast.Call) and ast.unparse(sql.func).endswith(".format"):
                # psycopg's SQL, which quotes identifiers.
                assert all(ast.unparse(part).startswith("Identifier(") for part in sql.args)
                assert sql.keywords == []
            assert not (isinstance(sql, ast.BinOp) and isinstance(sql.op, ast.Mod)), path
        called = {name.rpartition(".")[2] for name in calls(path)}
        assert not {"RawSQL", "raw", "extra"} & called, path


def test_regular_expressions_are_constants():
    """No input is part of an expression, so none has to be escaped."""
    for path in SOURCES:
        assert not re.search(r"__i?regex\b", path.read_text()), path
        for node in nodes(path):
            if isinstance(node, ast.Call) and re.match(r"re\.\w+$", ast.unparse(node.func)):
                names = [part.id for part in ast.walk(node.args[0]) if isinstance(part, ast.Name)]
                # Constants of this project, and Django's debug.….hidden_settings.pattern.
                assert all(name.isupper() or name == "debug" for name in names), (path, names)


def test_secrets_are_compared_in_constant_time():
    """MACs, codes and service secrets are compared with compare_digest."""
    comparing = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if {"hmac.compare_digest", "constant_time_compare", "compare_digest"} & calls(path)
    }
    assert {
        "apikeys/tokens.py", "apikeys/api/authentication.py", "accounts/email_codes.py",
    } <= comparing  # fmt: skip


# Comparisons with == whose operands are named like secrets, where timing reveals nothing.
PLAIN_COMPARISONS = {
    # The platform's hashes, found by the keyed digest of the whole token.
    ("apikeys/cache/verified.py", "_verified.get(digest) == encoded"),
    ("apikeys/cache/verified.py", "_mismatches.get(digest) == encoded"),
    ("apikeys/cache/shared_verified.py", "self._table[at:at + _HALF] == digest[:_HALF]"),
    # Two requests of one account, which it has sent itself.
    ("apikeys/api/idempotency.py", "key.request_digest != identity.digest"),
    # A checksum against typing errors.
    ("apikeys/tokens.py", "zlib.crc32(text[_UP_TO_CRC].encode('ascii')) == int(text[_CRC], 16)"),
    # Checksums of the operator's files.
    ("backups/archive.py", "file_digest(file, 'sha256').hexdigest() != manifest.sha256"),
    ("platform/server/management/commands/serve.py", "stamp.read_text() == digest.hexdigest()"),
    # Presence, length and type.
    ("oauth/server/grants.py", "data.get('code_challenge_method') != 'S256'"),
    ("oauth/server/grants.py", "len(data.get('code_challenge', '')) != 43"),
    ("platform/config/settings/providers.py", "bool(client_id) != bool(secret)"),
    ("platform/config/settings/uploads.py", "bool(S3_ACCESS_KEY_ID) != bool(S3_SECRET_ACCESS_KEY)"),
}
_SECRET = re.compile(r"digest|secret|signature|hmac|_mac\b|_tag\(|challenge|nonce|crc|proof")


def plain_comparisons(path: Path) -> set[str]:
    return {
        ast.unparse(node)
        for node in nodes(path)
        if isinstance(node, ast.Compare)
        and any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops)
        and _SECRET.search(ast.unparse(node).lower())
    }


def test_only_listed_comparisons_of_secrets_use_equality():
    found = {
        (str(path.relative_to(ROOT)), comparison)
        for path in SOURCES
        for comparison in plain_comparisons(path)
    }
    assert found == PLAIN_COMPARISONS


# --- Inventories -----------------------------------------------------------------------------


def test_every_file_that_uses_cryptography_is_in_the_inventory():
    using = where(
        "hashlib", "hmac", "secrets", "cryptography", "argon2", "trustme", "ssl", "jwt", "zlib",
        "django.core.signing", "django.utils.crypto", "django.contrib.auth.hashers",
    )  # fmt: skip
    listed = set(re.findall(r"`([\w/]+\.py)`", section("Cryptography in use")))
    assert using - listed == set()
    # The inventory has no entries for removed files.
    assert {name for name in listed if not (ROOT / name).exists()} == set()


def test_every_app_that_logs_is_in_the_log_inventory():
    writing = {name.partition("/")[0] for name in where("logging")} - {"platform"}
    listed = set(re.findall(r"`(\w+)`", section("What is logged")))
    assert writing - listed == set()


def test_every_audit_event_is_in_the_log_inventory():
    listed = section("What is logged")
    assert [action.value for action in Action if f"`{action.value}`" not in listed] == []


def test_every_file_with_network_access_is_listed():
    talking = where(
        "requests", "urllib.request", "http.client", "httpx", "socket", "smtplib", "psycopg",
        "redis", "subprocess",
    )  # fmt: skip
    listed = set(re.findall(r"`([\w/]+\.py)`", section("Whom it talks to")))
    assert talking - listed == set()


def test_session_timeouts_are_documented(settings):
    documented = section("Sessions")
    assert settings.SESSION_IDLE.days == 14
    assert settings.SESSION_LIFETIME.days == 30
    assert settings.STAFF_IDLE.total_seconds() == 30 * 60
    assert settings.STAFF_LIFETIME.total_seconds() == 12 * 3600
    for words in ("14 days", "30 days", "30 minutes", "12 hours"):
        assert words in documented


def _cells(line: str) -> list[str]:
    return line.split("|") if line.startswith("|") else []


def test_bounds_of_input_are_documented():
    rows = section("What input has to be").splitlines()
    documented = {cells[1].strip(): cells[2] for cells in map(_cells, rows) if cells}
    for model, name, row in [
        (User, "name", "name of a user"),
        (User, "email", "email"),
        (APIKey, "name", "name of a key"),
        (APIKey, "description", "description of a key"),
    ]:
        assert f" {model._meta.get_field(name).max_length} characters" in documented[row], row
    (length,) = [
        validator.min_length
        for validator in get_default_password_validators()
        if hasattr(validator, "min_length")
    ]
    assert f"{length} characters or more" in documented["password"]


def test_rate_limits_are_documented(settings):
    documented = section("Limits")
    rows = {cells[1].strip(): cells[2] for cells in map(_cells, documented.splitlines()) if cells}
    # The rate limits in force, allauth's defaults included, in the row of their names.
    in_force = {
        name: value
        for name, value in app_settings.RATE_LIMITS.items()
        if not name.endswith("_phone")  # no phone numbers are asked for
    }
    assert set(settings.ACCOUNT_RATE_LIMITS) < set(in_force)
    for name, value in in_force.items():
        assert f"`{value}`" in rows[f"`{name}`"], (name, value)
    for name in ("KEYS_PER_ACCOUNT", "NEW_KEYS_PER_HOUR", "ARGON2_CONCURRENCY"):
        assert str(getattr(settings, name)) in rows[f"`{name}`"], name
    for name in (
        "KEYS_PER_ACCOUNT",
        "NEW_KEYS_PER_HOUR",
        "GUESSES_PER_MINUTE",
        "ARGON2_CONCURRENCY",
    ):
        assert f"`{name}`" in documented, name


# --- Cookies ---------------------------------------------------------------------------------


def test_no_cookie_exceeds_the_browser_limit(alice):
    client = Client()
    client.post("/login", {"login": alice.email, "password": "correct horse battery staple"})
    client.post("/language", {"language": "ja"})
    assert len(client.cookies) >= 3
    for cookie in client.cookies.values():
        assert len(cookie.key) + len(cookie.value) < 1024
