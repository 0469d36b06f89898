"""Private names of third-party libraries: they exist, and only core.private_names uses them."""

import ast
import inspect
import pkgutil
from importlib.metadata import packages_distributions, version
from pathlib import Path

import psycopg
import pytest
from django.core.cache.backends.db import DatabaseCache
from environs import FileAwareEnv
from rest_framework.request import Request

from core.private_names import NAMES, granian
from core.private_names.rest_framework import django_request

ROOT = Path(__file__).parents[2]
OURS = ("accounts", "apikeys", "audit", "backups", "core", "oauth", "outbox", "staff", "platform")
# Documented by Django and Python.
DOCUMENTED = {
    "_meta", "_state", "_db", "_default_manager", "_base_manager", "_replace", "_asdict", "_fields",
}  # fmt: skip


def gone(name: str, use: str) -> str:
    package = name.partition(".")[0]
    distribution = packages_distributions()[package][0]
    return (
        f"{distribution} {version(distribution)} has no {name} any more, which is private and "
        f"needed here: {use}."
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_private_name_exists(name):
    try:
        pkgutil.resolve_name(name)
    except (AttributeError, ImportError):
        pytest.fail(gone(name, NAMES[name]), pytrace=False)


def test_the_message_for_a_name_that_is_gone_is_one_plain_sentence():
    with pytest.raises(AttributeError):
        pkgutil.resolve_name("granian.server.mp.no_such_name")
    message = gone("granian.server.mp.no_such_name", "server.granian_server replaces it")
    assert message == (
        f"granian {version('granian')} has no granian.server.mp.no_such_name any more, which is "
        "private and needed here: server.granian_server replaces it."
    )


def test_rest_framework_keeps_djangos_request(rf):
    request = rf.get("/")
    assert django_request(Request(request)) is request


def test_django_keeps_the_table_of_a_database_cache():
    assert DatabaseCache("cache", {})._table == "cache", gone(
        "django.core.cache.backends.db.DatabaseCache._table", "core.cache reads rows of it"
    )


def test_psycopg_keeps_the_pool_of_a_connection():
    source = inspect.getsource(psycopg.BaseConnection)
    assert "self._pool" in source, gone("psycopg.Connection._pool", "core.private_names.psycopg")


def test_environs_collects_errors_by_the_name_of_the_variable():
    assert FileAwareEnv(eager=False)._errors["NAME"] == [], gone(
        "environs.FileAwareEnv._errors", "config.env adds errors to it"
    )


def test_granian_calls_the_function_that_is_replaced():
    assert granian.can_replace_wsgi_call(), gone(
        "granian.server.mp._wsgi_call_wrap", "server.granian_server replaces it"
    )


def test_granian_reads_the_idle_timeout_when_it_starts_a_worker():
    spawn = granian.mp.MPServer._spawn_worker
    assert "blocking_threads_idle_timeout" in spawn.__code__.co_names, gone(
        "granian.server.mp.MPServer.blocking_threads_idle_timeout", "manage.py serve sets it"
    )


def test_private_names_are_used_in_one_package_only():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for folder in OURS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "private_names" not in path.parts
        for line, what in private_uses(ast.parse(path.read_text()))
    ]
    assert not found, f"Pass these names on in core/private_names: {found}"


@pytest.mark.parametrize(
    "code",
    [
        "from allauth.core.internal import ratelimit",
        "from allauth.account import internal",
        "from granian.server import _private",
        "import allauth.core.internal.ratelimit",
        "connection._pool",
        "request._request.user",
    ],
)
def test_a_use_of_a_private_name_is_found(code):
    assert list(private_uses(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "from config.env import _range",
        "from core.private_names.allauth import ratelimit",
        "self._request",
        "class A:\n  _pool = 1\nA._pool",
        "Model._meta",
        "super()._spawn_worker()",
    ],
)
def test_names_of_this_project_and_documented_ones_are_allowed(code):
    assert not list(private_uses(ast.parse(code)))


def private_uses(tree):
    """Yield line and text of each import or attribute that looks private to a third-party library.

    Attributes of self and super() are not reported: they may be the class's own.
    """
    own = {node.name for node in ast.walk(tree) if hasattr(node, "name")} | {
        getattr(node, "id", getattr(node, "attr", None))
        for node in ast.walk(tree)
        if isinstance(getattr(node, "ctx", None), ast.Store)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            prefix = [f"{node.module}"] if isinstance(node, ast.ImportFrom) else []
            for alias in node.names:
                parts = ".".join([*prefix, alias.name]).split(".")
                if parts[0] in {*OURS, "config", "server"}:
                    continue
                if any(part == "internal" or is_private(part) for part in parts):
                    yield node.lineno, ".".join(parts)
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            of_class = ast.unparse(node.value) in {"self", "cls", "super()"}
            if not of_class and node.attr not in own | DOCUMENTED:
                yield node.lineno, ast.unparse(node)


def is_private(name):
    return name.startswith("_") and not name.startswith("__")
