"""The validation cache with the real endpoints: equal responses, none of them outdated."""

import io
import os
import time
from datetime import timedelta
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.db import connection
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from accounts.models import User
from apikeys import limits, services, tokens, usage
from apikeys.cache import ages, invalidation, middleware, setup
from apikeys.cache import rows as row_cache
from apikeys.cache.middleware import ValidationCache
from apikeys.cache.responses import CACHE_DIRECTIVE
from apikeys.cache.setup import BODILESS, QUERIES, ROUTES, install
from apikeys.cache.versions import VersionTable
from apikeys.key_hasher import key_hasher
from apikeys.models import APIKey, Reason
from audit.services import Actor
from core import request_log
from core.languages import accepted_language

Result = tuple[str, list[tuple[str, str]], bytes]


@pytest.fixture
def django(transactional_db) -> WSGIHandler:
    return WSGIHandler()


class CountedApplication:
    """An application, with the paths of the requests that reached it."""

    def __init__(self, application: Any) -> None:
        self.application = application
        self.paths: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.paths.append(environ["PATH_INFO"])
        return self.application(environ, start_response)


@pytest.fixture
def counted(django) -> CountedApplication:
    return CountedApplication(django)


@pytest.fixture
def misses(counted) -> list[str]:
    """The paths of the requests that reached Django."""
    return counted.paths


def make_cache(application: Any, versions: VersionTable, **options: Any) -> ValidationCache:
    settings: dict[str, Any] = {
        "tag_keys": key_hasher().tag_keys,
        "routes": ROUTES,
        "bodiless": BODILESS,
        "queries": QUERIES,
        "count": usage.count,
        "count_refusal": usage.count_refusal,
        "count_guess": limits.count_guess_locally,
        "language_of": accepted_language,
        "capacity": 100,
    }
    return ValidationCache(application, versions=versions, **{**settings, **options})


@pytest.fixture
def cached_app(counted, own_version_table) -> ValidationCache:
    return make_cache(counted, own_version_table)


def request(method: str, path: str, body: bytes = b"", **headers: str) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.7",
        "HTTP_HOST": "127.0.0.1:8000",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.version": (1, 0),
        **headers,
    }


def get_response(application: Any, environ: dict[str, Any]) -> Result:
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        started.append((status, list(headers)))

    chunks = application(environ, start_response)
    body = b"".join(chunks)
    if hasattr(chunks, "close"):
        chunks.close()
    return (*started[-1], body)


def twin(environ: dict[str, Any]) -> dict[str, Any]:
    body = environ["wsgi.input"].getvalue()
    return {**environ, "wsgi.input": io.BytesIO(body), "wsgi.errors": io.StringIO()}


def forged() -> str:
    return tokens.make(tag_key=os.urandom(32)).reveal()


@pytest.fixture
def presented(alice, mallory, issue) -> dict[str, str]:
    """A token for every verdict."""
    revoked, revoked_token = issue("revoked")
    expired = issue("expired", expires_at=timezone.now() - timedelta(minutes=1))[1]
    disabled = issue("disabled", owner=mallory)[1]
    services.revoke(revoked, reason=Reason.DELETED_BY_OWNER)
    suspended, suspended_token = issue("suspended")
    services.suspend(suspended, by=Actor())
    mallory.is_active = False
    mallory.save()
    good = issue("good")[1].reveal()
    return {
        "valid": good,
        "narrow": issue("narrow", scopes=["proxy:bfl"])[1].reveal(),
        "revoked": revoked_token.reveal(),
        "suspended": suspended_token.reveal(),
        "expired": expired.reveal(),
        "disabled": disabled.reveal(),
        "unknown": tokens.make(tag_key=key_hasher().tag_keys[0]).reveal(),
        "forged": forged(),
        "malformed": good[:-1] + ("0" if good[-1] != "0" else "1"),
        "short": good[:-1],
        "no key": "",
    }


KNOWN = [
    "valid", "narrow", "revoked", "suspended", "expired", "disabled", "unknown", "forged",
    "malformed"
]  # fmt: skip

WAYS = {
    "x-api-key": lambda token: {"HTTP_X_API_KEY": token},
    "bearer": lambda token: {"HTTP_AUTHORIZATION": f"Bearer {token}"},
    "both": lambda token: {"HTTP_X_API_KEY": token, "HTTP_AUTHORIZATION": "Bearer nonsense"},
    "from a page": lambda token: {"HTTP_X_API_KEY": token, "HTTP_ORIGIN": "http://a.example"},
    "over https": lambda token: {"HTTP_X_API_KEY": token, "wsgi.url_scheme": "https"},
    "localhost": lambda token: {"HTTP_X_API_KEY": token, "HTTP_HOST": "localhost:8000"},
    "forwarded": lambda token: {"HTTP_X_ORIGINAL_X_API_KEY": token},
    "forwarded as bearer": lambda token: {"HTTP_X_ORIGINAL_AUTHORIZATION": f"Bearer {token}"},
    "beside the proxy's own": lambda token: {
        "HTTP_X_ORIGINAL_X_API_KEY": token,
        "HTTP_AUTHORIZATION": "Bearer nonsense",
    },
    "beside another": lambda token: {
        "HTTP_X_API_KEY": token,
        "HTTP_X_ORIGINAL_X_API_KEY": "comfyui-another",
    },
    "empty before bearer": lambda token: {
        "HTTP_X_API_KEY": "",
        "HTTP_AUTHORIZATION": f"Bearer {token}",
    },
    "blank before bearer": lambda token: {
        "HTTP_X_API_KEY": " \t\xa0",
        "HTTP_AUTHORIZATION": f"Bearer {token}",
    },
    "a key's length of blanks before bearer": lambda token: {
        "HTTP_X_API_KEY": "\xa0" * 72,
        "HTTP_AUTHORIZATION": f"Bearer {token}",
    },
    "a key's length of commas before bearer": lambda token: {
        "HTTP_X_API_KEY": "," * 72,
        "HTTP_AUTHORIZATION": f"Bearer {token}",
    },
    "an empty one beside it": lambda token: {"HTTP_X_API_KEY": f", {token}"},
    "another of a key's length": lambda token: {"HTTP_X_API_KEY": f"{token[:35]},{token[:36]}"},
    "wrong host": lambda token: {"HTTP_X_API_KEY": token, "HTTP_HOST": "evil.example"},
}

BYPASSING = {
    "wrong host", "forwarded", "forwarded as bearer", "beside the proxy's own", "beside another",
    "a key's length of commas before bearer", "an empty one beside it", "another of a key's length",
}  # fmt: skip


# Making the keys takes longer than the requests of a route, so it is done once for all routes.
@pytest.mark.parametrize("way", WAYS)
def test_every_cached_response_equals_the_one_of_django(
    way, presented, django, counted, misses, own_version_table
):
    for route in ROUTES:
        cached_app = make_cache(counted, own_version_table)
        misses.clear()
        for verdict, token in presented.items():
            environ = request(*route, **WAYS[way](token))
            expected = get_response(django, twin(environ))
            for moment in ("cold", "warm", "warm again"):
                response = get_response(cached_app, twin(environ))
                assert response == expected, (route, verdict, moment)
        if way not in BYPASSING:
            assert len(misses) < len(presented) * 3, route


VERDICT_OF = {
    "valid": "VALID", "narrow": "VALID", "revoked": "REVOKED", "suspended": "SUSPENDED",
    "expired": "EXPIRED", "disabled": "ACCOUNT_DISABLED", "unknown": "NOT_FOUND",
    "forged": "NOT_FOUND", "malformed": "MALFORMED",
}  # fmt: skip


@pytest.mark.parametrize("known", KNOWN)
def test_each_cached_response_counts_its_verdict(known, presented, django, own_version_table):
    # The first position, which other verdicts have, is of none.
    codes = ["", *services.VerdictCode, "RATE_LIMITED"]
    counts = [0] * len(codes)
    positions = {str(code): at for at, code in enumerate(codes)}
    app = make_cache(django, own_version_table, counts=counts, positions=positions)
    environ = request("POST", "/api/v1/keys/validate", HTTP_X_API_KEY=presented[known])
    get_response(app, twin(environ))
    assert sum(counts) == 0
    for _ in range(3):
        get_response(app, twin(environ))
    assert {code: count for code, count in zip(codes, counts, strict=True) if count} == {
        VERDICT_OF[known]: 3
    }


def test_cached_rate_limited_responses_are_counted_apart(
    settings, django, own_version_table, presented
):
    settings.GUESSES_PER_MINUTE = 30
    counts, positions = [0, 0, 0], {"MALFORMED": 1, "RATE_LIMITED": 2}
    app = make_cache(django, own_version_table, counts=counts, positions=positions)
    environ = request(
        "POST",
        "/api/v1/keys/validate",
        HTTP_X_API_KEY=presented["malformed"],
        REMOTE_ADDR="198.51.100.30",
    )
    statuses = [get_response(app, twin(environ))[0][:3] for _ in range(120)]
    # Some are answered by Django: the first of each kind, and each 25th, which writes the count.
    assert 0 < counts[1] < statuses.count("401")
    assert 0 < counts[2] < statuses.count("429")
    assert counts[1] + counts[2] > 60


def test_each_client_ip_of_a_key_is_a_cache_miss_once(presented, cached_app, misses):
    environ = request("POST", "/customers", HTTP_X_API_KEY=presented["valid"])
    for number in range(40):
        for _ in range(3):
            get_response(cached_app, {**twin(environ), "REMOTE_ADDR": f"192.0.2.{number}"})
    assert len(misses) == 40
    get_response(cached_app, {**twin(environ), "REMOTE_ADDR": "192.0.2.39"})
    assert len(misses) == 40, "the last ones are remembered"


def test_a_refusal_is_a_cache_hit_for_every_client_ip(presented, cached_app, misses):
    environ = request("POST", "/customers", HTTP_X_API_KEY=presented["revoked"])
    for number in range(5):
        get_response(cached_app, {**twin(environ), "REMOTE_ADDR": f"192.0.2.{number}"})
    assert len(misses) == 1


def test_the_first_validation_parses_digests_and_reads_once(
    issue, cached_app, misses, monkeypatch, settings
):
    # No listener renews a lease here. Without one, rows are not cached.
    settings.MULTI_HOST = False
    calls: list[str] = []

    def count(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    _key, token = issue("studio")
    count(tokens, "parse")
    count(middleware, "parse")
    count(key_hasher(), "digest")
    count(row_cache, "find")
    responses = [
        get_response(
            cached_app, request("POST", "/api/v1/keys/validate", HTTP_X_API_KEY=token.reveal())
        ),
        get_response(
            cached_app,
            request("GET", "/customers/me", HTTP_AUTHORIZATION=f"Bearer {token.reveal()}"),
        ),
    ]
    assert [response[0] for response in responses] == ["200 OK"] * 2
    assert len(misses) == 2
    # The second one is a cache miss for its path alone, and takes no Argon2.
    assert sorted(calls) == ["digest", "digest", "find", "find", "parse", "parse"]


@pytest.mark.parametrize("verdict", KNOWN)
def test_a_cache_hit_does_not_call_django(verdict, presented, cached_app, misses):
    environ = request("POST", "/customers", HTTP_X_API_KEY=presented[verdict])
    for _ in range(5):
        get_response(cached_app, twin(environ))
    assert misses == ["/customers"]


def test_another_forged_key_is_a_cache_hit(alice, cached_app, misses):
    for _ in range(5):
        get_response(cached_app, request("POST", "/customers", HTTP_X_API_KEY=forged()))
    assert misses == ["/customers"]


@pytest.mark.parametrize("query", ["scope=proxy:bfl", "scope=proxy:openai"])
def test_a_request_for_a_scope_is_a_cache_hit(query, presented, django, cached_app, misses):
    for verdict in ("valid", "narrow", "revoked"):
        token = presented[verdict]
        environ = request("GET", "/api/v1/auth", QUERY_STRING=query, HTTP_X_API_KEY=token)
        expected = get_response(django, twin(environ))
        for _ in range(4):
            assert get_response(cached_app, twin(environ)) == expected
    assert misses == ["/api/v1/auth"] * 3


@pytest.mark.parametrize(
    "query", ["scope=" + "a" * 130, "a=b", "Scope=proxy:bfl", "api_key=x&scope=proxy:bfl"]
)
def test_other_queries_are_not_cached(query, presented, cached_app, misses):
    token = presented["valid"]
    environ = request("GET", "/api/v1/auth", QUERY_STRING=query, HTTP_X_API_KEY=token)
    for _ in range(3):
        get_response(cached_app, twin(environ))
    assert misses == ["/api/v1/auth"] * 3


HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "HTTP_ACCEPT",
            "HTTP_ACCEPT_LANGUAGE",
            "HTTP_ACCESS_CONTROL_REQUEST_METHOD",
            "HTTP_ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK",
            "HTTP_AUTHORIZATION",
            "HTTP_COOKIE",
            "HTTP_IF_NONE_MATCH",
            "HTTP_ORIGIN",
            "HTTP_X_FORWARDED_PROTO",
            "HTTP_X_CSRFTOKEN",
            "HTTP_X_ORIGINAL_AUTHORIZATION",
            "HTTP_X_ORIGINAL_X_API_KEY",
            "CONTENT_TYPE",
            "QUERY_STRING",
        ]
    ),
    st.sampled_from(
        [
            "",
            "*/*",
            "ja",
            "application/json",
            "null",
            "https://comfy.example",
            "true",
            "GET",
            "https",
            "Bearer x",
            "api_key=1",
            "a=b",
            "scope=proxy:bfl",
            "scope=proxy:openai",
            "scope=root",
            "scope=proxy:bfl&api_key=x",
            "scope=proxy:bfl&scope=proxy:bfl",
            "scope=proxy:bfl&scop=x",
            "scope=",
            "scopes=proxy:bfl",
            "session_8000=nonsense",
        ]
    ),
    max_size=5,
)


def test_each_language_has_its_own_cached_responses(presented, own_version_table):
    asked = []

    def application(environ, start_response):
        header = environ.get("HTTP_ACCEPT_LANGUAGE", "")
        asked.append(header)
        environ[CACHE_DIRECTIVE].allow()
        start_response("401 Unauthorized", [])
        return [accepted_language(header).encode()]

    cached_app = make_cache(application, own_version_table)
    for _ in range(2):
        for header, language in (("", b"en"), ("ja", b"ja"), ("ja-JP, en;q=0.5", b"ja")):
            for verdict in ("valid", "malformed"):
                key = {"HTTP_X_API_KEY": presented[verdict], "HTTP_ACCEPT_LANGUAGE": header}
                body = get_response(cached_app, request("POST", "/customers", **key))[2]
                assert body == language
    # Once per language and token: headers that ask for the same language share a response.
    assert asked == ["", "", "ja", "ja"]


def test_an_unusual_accept_language_is_not_remembered(presented, cached_app, django):
    for header in ("ja" + " " * 70_000, "x" * 70_000, "ja;q=x", "\xff"):
        environ = request(
            "POST", "/customers", HTTP_X_API_KEY=presented["revoked"], HTTP_ACCEPT_LANGUAGE=header
        )
        expected = get_response(django, twin(environ))
        for _ in range(2):
            assert get_response(cached_app, twin(environ)) == expected


def test_an_empty_origin_counts_as_none(presented, django, cached_app):
    key = {"HTTP_X_API_KEY": presented["valid"]}
    for origin in ["http://a.example", "", "http://a.example"]:
        environ = request("POST", "/customers", b"", **key, HTTP_ORIGIN=origin)
        assert get_response(cached_app, twin(environ)) == get_response(django, twin(environ))


@hypothesis_settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    verdict=st.sampled_from(KNOWN),
    method=st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "DELETE"]),
    path=st.sampled_from([path for _method, path in ROUTES] + ["/customers/", "/keys/"]),
    body=st.sampled_from([b"", b"{}", b'{"key": "comfyui-"}', b"x" * 100]),
    headers=HEADERS,
    in_bearer=st.booleans(),
)
def test_any_request_is_answered_as_by_django(
    verdict, method, path, body, headers, in_bearer, presented, django, cached_app
):
    token = presented[verdict]
    key = {"HTTP_AUTHORIZATION": f"Bearer {token}"} if in_bearer else {"HTTP_X_API_KEY": token}
    environ = request(method, path, body, **{**headers, **key})
    expected = get_response(django, twin(environ))
    assert get_response(cached_app, twin(environ)) == expected
    assert get_response(cached_app, twin(environ)) == expected


# --- Changes ----------------------------------------------------------------------------------


def code_of(cached_app: ValidationCache, token: str) -> str:
    return get_response(cached_app, request("POST", "/customers", HTTP_X_API_KEY=token))[0]


def revoke(key: APIKey, alice: User) -> None:
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)


def revoke_in_bulk(key: APIKey, alice: User) -> None:
    APIKey.objects.filter(owner=alice).update(
        revoked_at=timezone.now(), revoked_reason=Reason.REVOKED_BY_STAFF
    )


def let_expire(key: APIKey, alice: User) -> None:
    key.expires_at = timezone.now() - timedelta(seconds=1)
    key.save()


def remove(key: APIKey, alice: User) -> None:
    key.delete()


def disable(key: APIKey, alice: User) -> None:
    alice.is_active = False
    alice.save()


def disable_in_bulk(key: APIKey, alice: User) -> None:
    User.objects.filter(pk=alice.pk).update(is_active=False)


def delete_account(key: APIKey, alice: User) -> None:
    from accounts.services import delete_account

    delete_account(alice)


@pytest.mark.parametrize(
    "end", [revoke, revoke_in_bulk, let_expire, remove, disable, disable_in_bulk, delete_account]
)
def test_a_key_is_refused_as_soon_as_the_change_returns(end, alice, issue, cached_app):
    key, token = issue("studio")
    assert [code_of(cached_app, token.reveal()) for _ in range(3)] == ["200 OK"] * 3
    end(key, alice)
    assert code_of(cached_app, token.reveal()).startswith("401")


INSIDE, ALSO_INSIDE, OUTSIDE = "203.0.113.7", "203.0.113.8", "198.51.100.7"


@pytest.fixture
def restricted(issue):
    return issue("restricted", allowed_networks=["203.0.113.0/24"])


def status_from(client_ip: str, cached_app: ValidationCache, token: Any, route=ROUTES[0]) -> str:
    environ = request(*route, HTTP_X_API_KEY=token.reveal(), REMOTE_ADDR=client_ip)
    return get_response(cached_app, environ)[0][:3]


@pytest.mark.parametrize("route", ROUTES, ids=[f"{method} {path}" for method, path in ROUTES])
def test_a_cached_response_is_not_repeated_to_another_network(
    route, restricted, cached_app, misses
):
    _key, token = restricted
    for _ in range(3):
        assert status_from(INSIDE, cached_app, token, route) in {"200", "204"}
    assert len(misses) == 1
    for client_ip in (OUTSIDE, "2001:db8::7", "", OUTSIDE):
        assert status_from(client_ip, cached_app, token, route) == "403"
    assert status_from(ALSO_INSIDE, cached_app, token, route) in {"200", "204"}
    assert status_from(OUTSIDE, cached_app, token, route) == "403"


def test_a_refused_network_is_not_repeated_to_an_allowed_one(restricted, cached_app, misses):
    _key, token = restricted
    for _ in range(3):
        assert status_from(OUTSIDE, cached_app, token) == "403"
        assert status_from(INSIDE, cached_app, token) == "200"
    assert len(misses) == 4, "refusals are not cached"


def test_a_network_is_refused_as_soon_as_it_is_removed(restricted, alice, cached_app):
    key, token = restricted
    assert [status_from(INSIDE, cached_app, token) for _ in range(3)] == ["200"] * 3
    services.update(key, by=Actor(user=alice), allowed_networks=["198.51.100.0/24"])
    assert status_from(INSIDE, cached_app, token) == "403"
    assert [status_from(OUTSIDE, cached_app, token) for _ in range(3)] == ["200"] * 3
    services.update(key, by=Actor(user=alice), allowed_networks=[])
    assert status_from(INSIDE, cached_app, token) == "200"


def test_a_key_without_a_list_is_restricted_as_soon_as_it_has_one(issue, alice, cached_app):
    key, token = issue("studio")
    assert [status_from(OUTSIDE, cached_app, token) for _ in range(3)] == ["200"] * 3
    services.update(key, by=Actor(user=alice), allowed_networks=["203.0.113.0/24"])
    assert [status_from(OUTSIDE, cached_app, token) for _ in range(3)] == ["403"] * 3


def test_narrower_scopes_count_at_once(issue, alice, cached_app):
    key, token = issue("studio")
    assert [status_from(INSIDE, cached_app, token) for _ in range(3)] == ["200"] * 3
    services.update(key, by=Actor(user=alice), scopes=["proxy:*"])
    assert status_from(INSIDE, cached_app, token) == "403"


@pytest.mark.parametrize("field", ["name", "email"])
def test_a_changed_owner_is_returned_at_once(field, alice, issue, cached_app):
    token = issue("studio")[1].reveal()
    environ = request("GET", "/customers/me", HTTP_X_API_KEY=token)
    get_response(cached_app, twin(environ))
    setattr(alice, field, "changed@example.org")
    alice.save()
    assert b"changed@example.org" in get_response(cached_app, twin(environ))[2]


def test_an_expiry_needs_no_invalidation(issue, cached_app, misses):
    deadline = timezone.now() + timedelta(seconds=2)
    token = issue("short", expires_at=deadline)[1].reveal()
    assert [code_of(cached_app, token) for _ in range(2)] == ["200 OK"] * 2
    assert len(misses) == 1
    time.sleep((deadline - timezone.now()).total_seconds())
    assert code_of(cached_app, token).startswith("401")


def test_a_write_in_progress_makes_every_request_a_miss(issue, cached_app, misses):
    key, token = issue("studio")
    code_of(cached_app, token.reveal())
    table = invalidation.version_table()
    bucket = int(key.public_id[:4], 16)
    table.begin_write([bucket])
    for _ in range(3):
        assert code_of(cached_app, token.reveal()) == "200 OK"
    assert len(misses) == 4
    table.end_write([bucket])


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_a_deleted_or_replaced_table_is_not_used(how, issue, cached_app, misses, own_version_table):
    token = issue("studio")[1].reveal()
    for _ in range(2):
        code_of(cached_app, token)
    assert len(misses) == 1
    own_version_table.path.rename(own_version_table.path.with_name("older"))
    if how == "deleted":
        own_version_table.path.with_name("older").unlink()
    # It is checked from time to time, not at each request.
    time.sleep(0.1)
    code_of(cached_app, token)
    assert len(misses) == 2


def test_without_a_lease_nothing_is_cached(issue, counted, misses, own_version_table):
    token = issue("studio")[1].reveal()
    cached_app = make_cache(counted, own_version_table, multi_host=True)
    own_version_table.renew_lease(60)
    assert [code_of(cached_app, token) for _ in range(3)] == ["200 OK"] * 3
    assert len(misses) == 1
    own_version_table.renew_lease(0)
    code_of(cached_app, token)
    assert len(misses) == 2


@pytest.mark.parametrize("way", [{}, {"HTTP_COOKIE": "a=b"}], ids=["cached", "bypassed"])
def test_the_first_request_starts_the_listener(
    way, issue, django, own_version_table, settings, monkeypatch
):
    started: list[str] = []

    class FakeListener:
        def __init__(self, *_arguments: object, **_options: object) -> None:
            pass

        def start(self) -> None:
            started.append("maybe not for the first time")

    settings.MULTI_HOST = True
    settings.LISTEN_DATABASE_URL = "postgres://127.0.0.1/keys"
    monkeypatch.setattr(setup, "Listener", FakeListener)
    application = install(django)
    assert not started, "a thread does not survive a fork"
    token = issue("studio")[1].reveal()
    response = get_response(application, request("POST", "/customers", HTTP_X_API_KEY=token, **way))
    assert response[0] == "200 OK"
    assert started


def test_a_recorded_use_or_a_new_hash_invalidates_nothing(issue, cached_app, misses):
    key, token = issue("studio")
    code_of(cached_app, token.reveal())
    APIKey.objects.filter(pk=key.pk).update(last_used_at=timezone.now())
    usage.flush()
    code_of(cached_app, token.reveal())
    assert len(misses) == 1


def test_each_cache_hit_counts_as_a_use(issue, cached_app):
    key, token = issue("studio")
    for _ in range(4):
        code_of(cached_app, token.reveal())
    usage.flush()
    assert key.daily_uses.get().calls == 4
    assert key.hourly_uses.get().calls == 4


def test_each_cached_refusal_counts_as_one(issue, cached_app, misses):
    key, token = issue("studio")
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    for _ in range(4):
        code_of(cached_app, token.reveal())
    assert len(misses) == 1
    usage.flush()
    refusal = key.hourly_refusals.get()
    assert (refusal.code, refusal.calls) == ("REVOKED", 4)
    assert not key.daily_uses.exists()


# --- Age -------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 1000.0
        jitter = 0.0

    for module in (middleware, row_cache):
        monkeypatch.setattr(module, "clock", lambda: Clock.now)
    monkeypatch.setattr(ages, "jitter", lambda: Clock.jitter)
    return Clock


def revoke_unannounced(key: APIKey) -> None:
    """As by hand in SQL: no model and no trigger invalidates."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE apikeys_apikey SET revoked_at = created_at, revoked_reason = 'staff'"
            " WHERE public_id = %s",
            [key.public_id],
        )


def test_a_stale_response_is_a_cache_miss(issue, cached_app, misses, clock):
    key, token = issue("studio")
    code_of(cached_app, token.reveal())
    revoke_unannounced(key)
    clock.now += 59
    assert code_of(cached_app, token.reveal()) == "200 OK"
    assert len(misses) == 1
    clock.now += 1
    assert code_of(cached_app, token.reveal()).startswith("401")


def test_a_stale_refusal_is_a_cache_miss(presented, cached_app, misses, clock):
    for number, verdict in enumerate(["revoked", "suspended", "disabled", "unknown"], 1):
        for _ in range(3):
            code_of(cached_app, presented[verdict])
        assert len(misses) == number
    clock.now += 60
    code_of(cached_app, presented["revoked"])
    assert len(misses) == 5


def test_a_response_expires_with_its_row(issue, cached_app, misses, clock):
    """Otherwise two caches would add up their maximum ages."""
    key, token = issue("studio")
    bypassing = request("POST", "/customers", HTTP_X_API_KEY=token.reveal(), HTTP_COOKIE="a=b")
    get_response(cached_app, bypassing)
    clock.now += 59
    assert code_of(cached_app, token.reveal()) == "200 OK"
    revoke_unannounced(key)
    # On PostgreSQL no row is cached without a lease: it was read for the last response.
    clock.now += 1 if connection.vendor == "sqlite" else 60
    assert code_of(cached_app, token.reveal()).startswith("401")


def test_another_variant_does_not_prolong_a_cached_response(issue, cached_app, clock):
    key, token = issue("studio")
    code_of(cached_app, token.reveal())
    revoke_unannounced(key)
    clock.now += 59
    get_response(cached_app, request("GET", "/customers/me", HTTP_X_API_KEY=token.reveal()))
    clock.now += 1
    result = get_response(
        cached_app, request("GET", "/customers/me", HTTP_X_API_KEY=token.reveal())
    )
    assert result[0].startswith("401")


def test_one_request_refreshes_a_verdict_while_others_are_served_from_it(
    issue, django, counted, cached_app, misses, clock
):
    key, token = issue("studio")
    clock.jitter = 0.2
    code_of(cached_app, token.reveal())
    clock.now += 47
    assert code_of(cached_app, token.reveal()) == "200 OK"
    assert len(misses) == 1
    revoke_unannounced(key)
    clock.now += 1
    meanwhile: list[str] = []

    def serve_others_first(environ: dict[str, Any], start_response: Any) -> Any:
        counted.application = django
        for now in (1048.0, 1059.9):
            clock.now = now
            meanwhile.append(code_of(cached_app, token.reveal()))
        clock.now = 1048.0
        return django(environ, start_response)

    counted.application = serve_others_first
    assert code_of(cached_app, token.reveal()).startswith("401")
    assert meanwhile == ["200 OK", "200 OK"]
    assert len(misses) == 2
    assert code_of(cached_app, token.reveal()).startswith("401")


def test_a_verdict_whose_refresh_fails_is_not_used_beyond_the_maximum(
    issue, counted, cached_app, clock
):
    token = issue("studio")[1].reveal()
    clock.jitter = 0.25
    code_of(cached_app, token)

    def fail(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("503 Service Unavailable", [])
        return [b""]

    counted.application = fail
    clock.now += 45
    assert [code_of(cached_app, token)[:3] for _ in range(3)] == ["503", "200", "200"]
    clock.now += 14.9
    assert code_of(cached_app, token) == "200 OK"
    clock.now += 0.1
    assert [code_of(cached_app, token)[:3] for _ in range(3)] == ["503"] * 3


def test_a_verdict_is_refreshed_along_with_its_row(issue, cached_app, misses, clock):
    """Otherwise it would be refreshed from a row that is about to be read again."""
    token = issue("studio")[1].reveal()
    clock.jitter = 0.25
    get_response(cached_app, request("POST", "/customers", HTTP_X_API_KEY=token, HTTP_COOKIE="a=b"))
    clock.now += 40
    clock.jitter = 0.0
    code_of(cached_app, token)
    assert len(misses) == 2
    # Where no row is cached, it was read for the last response.
    refresh_at = 1045.0 if connection.vendor == "sqlite" else 1100.0
    for now, expected in [(refresh_at - 0.1, 2), (refresh_at, 3)]:
        clock.now = now
        code_of(cached_app, token)
        assert len(misses) == expected


# --- Log lines and ids of requests -----------------------------------------------------------


@pytest.fixture
def request_facts(monkeypatch) -> list[dict[str, Any]]:
    """The fields of the log lines of requests, in their order."""
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(
        request_log.logger, "info", lambda _message, *, extra: written.append(extra)
    )
    return written


def test_misses_and_hits_have_the_same_facts_of_the_key(
    presented, alice, cached_app, request_facts
):
    application = request_log.with_request_log(cached_app, network_of=str)
    route = "/customers"
    for verdict in KNOWN:
        for _ in range(2):
            get_response(application, request("POST", route, HTTP_X_API_KEY=presented[verdict]))
        miss, hit = request_facts[-2:]
        assert [miss.pop("cache"), hit.pop("cache")] == ["miss", "hit"], verdict
        assert miss.pop("ms") > 0
        assert hit.pop("ms") > 0
        assert miss == hit, verdict
        assert hit["route"] == route
    accounts = {facts["verdict"]: facts["account_id"] for facts in request_facts}
    assert accounts["VALID"] == str(alice.pk)
    assert accounts["REVOKED"] == str(alice.pk)
    assert accounts["MALFORMED"] is accounts["NOT_FOUND"] is None


def test_without_a_request_log_no_facts_are_kept(presented, cached_app):
    for token in presented.values():
        get_response(cached_app, request("POST", "/customers", HTTP_X_API_KEY=token))
    assert cached_app._responses.young
    assert {cached.facts for cached in cached_app._responses.young.values()} == {None}


def test_a_cached_response_has_the_id_of_its_own_request(presented, counted, own_version_table):
    inner = request_log.with_request_ids(counted)
    cache = request_log.with_request_ids(make_cache(inner, own_version_table), only_given=True)

    def ids(token: str, **headers: str) -> list[str]:
        answer = get_response(cache, request("POST", "/customers", HTTP_X_API_KEY=token, **headers))
        return [value for name, value in answer[1] if name == "X-Request-Id"]

    for token in map(presented.__getitem__, KNOWN):
        before = len(counted.paths)
        (_made,) = ids(token)
        assert ids(token) == []
        assert ids(token, HTTP_X_REQUEST_ID="mine") == ["mine"]
        assert ids(token, HTTP_X_REQUEST_ID="and.mine") == ["and.mine"]
        assert len(counted.paths) == before + 1
