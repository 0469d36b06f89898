"""Both clients against the real platform: valid keys, invalid keys, and no answer."""

import asyncio
import gzip
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from comfy_keys import AsyncClient, Client, NotAllowed, Unavailable

from tests.factories import invented_key
from tests.live.comfy_keys.conftest import SERVICE_SECRET, fixed_server, http_answer, relay
from tests.live.conftest import ask, join, serving, shell, until
from tests.platforms import free_port

_ISSUE = """
from datetime import timedelta
from django.utils import timezone
from accounts.models import User
from apikeys import services

owner = User.objects.get(email=given["email"])
ends = given["seconds"] and timezone.now() + timedelta(seconds=given["seconds"])
key, token = services.issue(
    owner=owner, name=given["name"], expires_at=ends, scopes=given["scopes"],
    allowed_networks=given["networks"],
)
answer = token.reveal()
"""

_DISABLE = """
from accounts.models import User
user = User.objects.get(email=given["email"])
user.is_active = given["active"]
user.save()
"""


def issue(platform, email, *, name="other", seconds=None, scopes=(), networks=()) -> str:
    given = {"scopes": list(scopes), "networks": list(networks)}
    return str(shell(platform, _ISSUE, email=email, name=name, seconds=seconds, **given))


@pytest.fixture
def alice(running):
    return join(running, keys=1)


# --- Verdicts of the platform ---------------------------------------------------------------------


def test_a_valid_key_names_its_owner(running, alice, connect):
    (key,) = alice.keys
    verdict = connect(running.url).validate(f"  {key.token}\n")
    assert verdict
    assert (verdict.code, verdict.message) == ("VALID", "")
    assert (verdict.key.id, verdict.key.name) == (key.id, "key 0")
    assert verdict.key.prefix == f"comfyui-{key.public_id}"
    assert verdict.key.expires_at is None
    assert verdict.customer.email == alice.email
    assert verdict.customer.id
    for scope in "customers:read", "proxy:openai", "keys:manage":
        assert verdict.covers(scope)


def test_a_verdict_has_scopes_and_expiry(running, alice, connect):
    token = issue(running, alice.email, seconds=3600, scopes=["customers:read", "proxy:openai"])
    verdict = connect(running.url).validate(token)
    assert verdict.key.scopes == ("customers:read", "proxy:openai")
    assert verdict.covers("proxy:openai")
    assert not verdict.covers("proxy:runway")
    left = verdict.key.expires_at - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)


def test_an_invalid_key_has_a_reason(running, alice, connect):
    client = connect(running.url, cache_for=0)
    assert client.validate(invented_key()).code == "NOT_FOUND"

    running.manage("revoke_key", alice.keys[0].public_id)
    deleted = client.validate(alice.keys[0].token)
    assert (deleted.valid, deleted.code) == (False, "REVOKED")
    assert "deleted" in deleted.message
    assert (deleted.key, deleted.customer) == (None, None)

    other = issue(running, alice.email)
    shell(running, _DISABLE, email=alice.email, active=False)
    assert client.validate(other).code == "ACCOUNT_DISABLED"


def test_a_key_is_judged_by_its_clients_network(running, alice, connect):
    far = issue(running, alice.email, name="far", networks=["203.0.113.0/24"])
    near = issue(running, alice.email, name="near", networks=["127.0.0.0/8", "203.0.113.0/24"])
    with relay(running) as seen:
        client = connect(seen.url, cache_for=60, service_secret=SERVICE_SECRET)
        assert client.validate(far, client_ip="203.0.113.7")
        assert len(seen.requests) == 1, "a request without the client would be refused and counted"
        refused = client.validate(far)
        assert (refused.valid, refused.code) == (False, "NETWORK_NOT_ALLOWED")
        assert "network" in refused.message
        for _ in range(2):
            for key in (far, near):
                assert client.validate(key, client_ip="203.0.113.7")
                assert client.validate(key, client_ip="::ffff:203.0.113.7")
                for client_ip in ("198.51.100.7", "", "unknown"):
                    assert client.validate(key, client_ip=client_ip).code == "NETWORK_NOT_ALLOWED"
        assert client.validate(near).key.allowed_networks == ("127.0.0.0/8", "203.0.113.0/24")
        good = len(seen.requests)
        assert client.validate(alice.keys[0].token, client_ip="198.51.100.7")
        assert client.validate(alice.keys[0].token, client_ip="198.51.100.8")
        assert len(seen.requests) == good + 1, "the client counts for keys with networks only"
        unknown = connect(seen.url, cache_for=60)
        assert unknown.validate(far, client_ip="203.0.113.7").code == "NETWORK_NOT_ALLOWED"
        assert unknown.validate(near, client_ip="203.0.113.7")
        wrong = connect(seen.url, service_secret="w" * 40)
        with pytest.raises(NotAllowed):
            wrong.validate(far, client_ip="203.0.113.7")


def test_a_typo_costs_no_request(connect):
    client = connect(f"http://127.0.0.1:{free_port()}")
    key = invented_key()
    for text in (key[:-1], key.upper(), key.replace("comfyui", "comfy_i"), "", "a,b", "\ud800"):
        assert client.validate(text).code == "MALFORMED"
    with pytest.raises(Unavailable):
        client.validate(key)


def test_verdicts_come_in_the_order_of_the_keys(running, connect):
    account = join(running, keys=2)
    good, deleted = account.keys
    running.manage("revoke_key", deleted.public_id)
    strange = [invented_key() for _ in range(150)]
    keys = [deleted.token, *strange, "typo", good.token, good.token]
    verdicts = connect(running.url, service_secret=SERVICE_SECRET).validate_many(iter(keys))
    codes = ["REVOKED", *["NOT_FOUND"] * 150, "MALFORMED", "VALID", "VALID"]
    assert [verdict.code for verdict in verdicts] == codes
    assert verdicts[-1].customer.email == account.email


def test_a_batch_is_one_request_and_is_cached(running, alice, connect):
    (key,) = alice.keys
    with relay(running) as seen:
        client = connect(seen.url, service_secret=SERVICE_SECRET, cache_for=60)
        assert client.validate_many([key.token, key.token])[0]
        assert client.validate_many([key.token])[0]
        assert client.validate(key.token)
        assert client.validate_many([]) == []
        assert [path for _method, path, _headers in seen.requests] == [
            "/api/v1/keys/validate/batch"
        ]
        with pytest.raises(TypeError):
            client.validate_many(key.token)


def test_a_batch_needs_the_service_secret(running, connect):
    with pytest.raises(NotAllowed, match="service secret is not valid"):
        connect(running.url, service_secret="wrong").validate_many([invented_key()])
    with pytest.raises(NotAllowed, match="service_secret"):
        connect(running.url).validate_many([invented_key()])
    with (
        fixed_server(http_answer("404 Not Found", b'{"error": "NOT_FOUND"}')) as off,
        pytest.raises(NotAllowed, match="SERVICE_SECRETS"),
    ):
        connect(off.url, service_secret=SERVICE_SECRET).validate_many([invented_key()])


# --- Deleted keys ---------------------------------------------------------------------------------


def delete(platform, key) -> float:
    """Delete a key as its owner does, and return the time at which the deletion was answered."""
    answer = ask(platform, "DELETE", f"/customers/api-keys/{key.id}", key=key.token)
    assert answer.status == 204
    return time.monotonic()


def test_a_deleted_key_is_refused_within_the_cache_age(running, connect):
    account = join(running, keys=3)
    client = connect(running.url, cache_for=0.5)
    for key in account.keys:
        until_asked = time.monotonic() + 0.3
        while time.monotonic() < until_asked:
            assert client.validate(key.token)
        deleted_at = delete(running, key)
        accepted = deleted_at
        while (now := time.monotonic()) < deleted_at + 1.0:
            if client.validate(key.token):
                accepted = now
        assert accepted < deleted_at + 0.5
        assert client.validate(key.token).code == "REVOKED"


def test_without_a_cache_it_is_refused_at_once(running, alice, connect):
    client = connect(running.url, cache_for=0)
    assert client.validate(alice.keys[0].token)
    delete(running, alice.keys[0])
    assert not client.validate(alice.keys[0].token)


def test_an_expired_key_is_refused_however_long_verdicts_are_cached(running, alice, connect):
    token = issue(running, alice.email, seconds=2)
    client = connect(running.url, cache_for=3600)
    ends = client.validate(token).key.expires_at
    while datetime.now(UTC) < ends:
        time.sleep(0.01)
    assert client.validate(token).code == "EXPIRED"


def test_an_enabled_account_is_accepted_within_a_second(running, alice, connect):
    (key,) = alice.keys
    client = connect(running.url, cache_for=3600)
    shell(running, _DISABLE, email=alice.email, active=False)
    assert client.validate(key.token).code == "ACCOUNT_DISABLED"
    shell(running, _DISABLE, email=alice.email, active=True)
    assert until(lambda: client.validate(key.token), seconds=1.5)


# --- Concurrency ----------------------------------------------------------------------------------


def test_many_threads_send_one_request_about_one_key(running, alice):
    (key,) = alice.keys
    with relay(running, delay=0.3) as seen, Client(seen.url) as client:
        verdicts = []
        threads = [
            threading.Thread(target=lambda: verdicts.append(client.validate(key.token)))
            for _ in range(30)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(seen.requests) == 1
    assert len(verdicts) == 30
    assert all(verdicts)


def test_many_tasks_send_one_request_about_one_key(running, alice):
    async def all_of_them(url: str) -> list[object]:
        async with AsyncClient(url) as client:
            return await asyncio.gather(*[client.validate(alice.keys[0].token) for _ in range(30)])

    with relay(running, delay=0.3) as seen:
        verdicts = asyncio.run(all_of_them(seen.url))
        assert len(seen.requests) == 1
    assert all(verdicts)


def test_a_cancelled_task_does_not_cancel_others(running, alice):
    async def one_leaves(url: str) -> object:
        async with AsyncClient(url) as client:
            first = asyncio.create_task(client.validate(alice.keys[0].token))
            await asyncio.sleep(0.1)
            second = asyncio.create_task(client.validate(alice.keys[0].token))
            await asyncio.sleep(0.05)
            first.cancel()
            return await second

    with relay(running, delay=0.3) as seen:
        assert asyncio.run(one_leaves(seen.url))
        assert len(seen.requests) == 1


def test_without_a_cache_each_validation_is_a_request(running, alice):
    """A verdict's age counts from when its request was sent, so that none predates a deletion."""
    (key,) = alice.keys
    with relay(running) as seen, Client(seen.url, cache_for=0) as client:
        threads = [threading.Thread(target=client.validate, args=(key.token,)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(seen.requests) == 5


def test_all_waiting_threads_get_the_error():
    with (
        fixed_server(http_answer("503 Service Unavailable", Retry_After="7"), pause=0.3) as seen,
        Client(seen.url) as client,
    ):
        problems = []

        def validate() -> None:
            try:
                client.validate(key)
            except Unavailable as problem:
                problems.append(problem)

        key = invented_key()
        threads = [threading.Thread(target=validate) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [problem.retry_after for problem in problems] == [7.0] * 10
    assert len(set(map(id, problems))) == 10


# --- No verdict -----------------------------------------------------------------------------------


def test_a_platform_without_its_database_gives_no_verdict(fresh_folder, store, connect):
    with serving(
        fresh_folder(), DATABASE_URL=store.url, VALIDATION_CACHE="0", DB_RETRY_SECONDS="1"
    ) as platform:
        account = join(platform, keys=1)
        client = connect(platform.url, cache_for=0, timeout=30)
        assert client.validate(account.keys[0].token)
        with store.stopped(), pytest.raises(Unavailable) as known:
            client.validate(account.keys[0].token)
        assert known.value.retry_after == 5.0
        assert until(partial(again, client, account.keys[0].token))


def again(client, token):
    try:
        return client.validate(token)
    except Unavailable:
        return None


GOOD = (
    b'{"valid": true, "code": "VALID", "key": {"id": "1", "name": "n", "key_prefix": "%s", '
    b'"scopes": ["customers:read"], "expires_at": null}, '
    b'"customer": {"id": "1", "email": "mallory@example.org", "name": "Mallory"}}'
)
ASKED = invented_key()
OURS = GOOD % ASKED[:20].encode()
OTHERS = GOOD % b"comfyui-000000000000"
JSON = {"Content_Type": "application/json"}

WRONG_ANSWERS = {
    "a page": http_answer("200 OK", b"<h1>Welcome</h1>"),
    "an empty yes": http_answer("200 OK"),
    "a bare true": http_answer("200 OK", b"true", **JSON),
    "a list": http_answer("200 OK", b"[]", **JSON),
    "another key's answer": http_answer("200 OK", OTHERS, **JSON),
    "valid as a text": http_answer("200 OK", OURS.replace(b"true", b'"true"'), **JSON),
    "good and revoked": http_answer("200 OK", OURS.replace(b'"VALID"', b'"REVOKED"'), **JSON),
    "bad but VALID": http_answer("401 No", b'{"error": "VALID", "message": "?"}', **JSON),
    "scopes as a text": http_answer(
        "200 OK", OURS.replace(b'["customers:read"]', b'"proxy:*"'), **JSON
    ),
    "a time without a zone": http_answer(
        "200 OK", OURS.replace(b"null", b'"2999-01-01T00:00:00"'), **JSON
    ),
    "nobody's key": http_answer("200 OK", OURS.replace(b"customer", b"user"), **JSON),
    "a depth": http_answer("200 OK", b"[" * 200_000, **JSON),
    "no text": http_answer("200 OK", b"\xff\xfe\x00", **JSON),
    "an endless answer": http_answer("200 OK", OURS + b" " * 1_000_000, **JSON),
    "a packed answer": http_answer("200 OK", gzip.compress(OURS), Content_Encoding="gzip", **JSON),
    "a proxy's own 401": http_answer("401 Unauthorized", b"<h1>Log in</h1>"),
    "a 401 that saw no key": http_answer(
        "401 No", b'{"error": "UNAUTHORIZED", "message": "Send a key."}', **JSON
    ),
    "a proxy's 403": http_answer("403 Forbidden", b"no"),
    "nothing there": http_answer("404 Not Found", b"no"),
    "a proxy's 500": http_answer("500 Oops", b"no"),
    "a proxy's 502": http_answer("502 Bad Gateway", b"no"),
    "Too many attempts": http_answer("429 Too Many Requests", b"no", Retry_After="3"),
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a broken answer": b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{",
    "nothing": b"",
}


@pytest.mark.parametrize("wrong_answer", WRONG_ANSWERS.values(), ids=WRONG_ANSWERS.keys())
def test_an_answer_of_another_server_gives_no_verdict(wrong_answer, connect):
    with fixed_server(wrong_answer) as seen:
        client = connect(seen.url, cache_for=60, service_secret=SERVICE_SECRET)
        for _ in range(2):
            before = len(seen.requests)
            with pytest.raises(Unavailable) as known:
                client.validate(ASKED)
            assert len(seen.requests) > before, "nothing is remembered of it"
            assert 0 <= known.value.retry_after <= 3600
        with pytest.raises((Unavailable, NotAllowed)):
            client.validate_many([ASKED])


def test_the_correct_answer_is_accepted(connect):
    with fixed_server(http_answer("200 OK", OURS, **JSON)) as seen:
        assert connect(seen.url).validate(ASKED)


def test_a_batch_with_missing_or_wrong_verdicts_gives_no_verdict(connect):
    for verdicts in (b"", OTHERS, b'{"valid": false}', OTHERS + b"," + OTHERS):
        body = b'{"verdicts": [' + verdicts + b"]}"
        with fixed_server(http_answer("200 OK", body, **JSON)) as seen:
            client = connect(seen.url, service_secret=SERVICE_SECRET)
            with pytest.raises(Unavailable):
                client.validate_many([invented_key()])


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_not_followed(status, connect):
    with (
        fixed_server(http_answer("200 OK", b"{}", **JSON)) as elsewhere,
        fixed_server(http_answer(status, Location=f"{elsewhere.url}/x")) as seen,
    ):
        client = connect(seen.url, service_secret=SERVICE_SECRET)
        with pytest.raises(Unavailable, match="redirects"):
            client.validate(invented_key())
        with pytest.raises(Unavailable, match="redirects"):
            client.validate_many([invented_key()])
        assert elsewhere.requests == []


def test_a_server_that_hangs_or_is_slow_times_out(connect):
    drops = [http_answer("200 OK", b"x" * 50)[:-50], *[b"x"] * 50]
    for server in (fixed_server(hang=True), fixed_server(*drops, pause=0.2)):
        with server as seen:
            began = time.monotonic()
            with pytest.raises(Unavailable):
                connect(seen.url, timeout=0.5).validate(invented_key())
            assert time.monotonic() - began < 2


def test_retry_after_is_bounded(connect):
    for given, wait in {
        "0": 0.0, "12": 12.0, "-1": 5.0, "soon": 5.0, "9" * 9: 3600.0, "9" * 400: 5.0,
        "Wed, 21 Oct 2015 07:28:00 GMT": 0.0, "Wed, 21 Oct 9999 07:28:00 GMT": 3600.0, "²": 5.0,
    }.items():  # fmt: skip
        answer = http_answer("503 No").replace(
            b"\r\n\r\n", f"\r\nRetry-After: {given}\r\n\r\n".encode()
        )
        with fixed_server(answer) as seen, pytest.raises(Unavailable) as known:
            connect(seen.url).validate(invented_key())
        assert known.value.retry_after == wait, given


def test_a_closed_connection_is_opened_again(running, alice, connect):
    """The relay closes the kept connection: the request is sent again."""
    with relay(running) as seen:
        client = connect(seen.url, cache_for=0)
        for _ in range(3):
            assert client.validate(alice.keys[0].token)


# --- Keys do not leak -----------------------------------------------------------------------------


@pytest.mark.parametrize("wrong_answer", [*WRONG_ANSWERS.values(), None])
def test_a_key_is_in_no_error_and_no_log(wrong_answer, connect, caplog):
    caplog.set_level("DEBUG")
    key = invented_key()
    url = f"http://127.0.0.1:{free_port()}"
    with fixed_server(wrong_answer or b"") as seen:
        client = connect(
            seen.url if wrong_answer is not None else url, service_secret=SERVICE_SECRET
        )
        for question in (client.validate, lambda key: client.validate_many([key])):
            with pytest.raises((Unavailable, NotAllowed)) as known:
                question(key)
            error: BaseException | None = known.value
            while error is not None:
                assert not hasattr(error, "request"), "httpx's errors hold what was sent"
                for text in (str(error), repr(error), repr(vars(error))):
                    assert key[20:] not in text
                    assert SERVICE_SECRET not in text
                error = error.__cause__ or error.__context__
        assert key[20:] not in repr(client) + repr(vars(client))
    assert caplog.records
    assert key[20:] not in caplog.text
    assert SERVICE_SECRET not in caplog.text


def test_a_key_is_not_in_a_verdict(running, alice, connect):
    verdict = connect(running.url).validate(alice.keys[0].token)
    assert alice.keys[0].secret not in repr(verdict) + str(verdict)


def test_proxies_of_the_environment_are_not_used(running, alice, connect, monkeypatch):
    with fixed_server(http_answer("200 OK")) as proxy:
        for name in "HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY":
            monkeypatch.setenv(name, proxy.url)
        assert connect(running.url).validate(alice.keys[0].token)
        assert proxy.requests == []


# --- URLs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "", "keys.example.org", "ftp://keys.example.org", "https://", "https:///path",
        "https://alice:secret@keys.example.org", "https://keys.example.org/?a=b",
        "https://keys.example.org/#a", "https://keys.example.org:port", "https://[::1",
        "https://keys.example.org:99999", "file:///etc/passwd", "javascript:alert(1)",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_invalid_url_is_refused(url, kind):
    with pytest.raises(ValueError, match="URL of the site must") as known:
        kind(url)
    assert "secret" not in str(known.value)


def test_plain_http_is_refused_except_for_loopback_or_on_request():
    for url in (
        "http://keys.example.org", "http://192.168.1.5:8000", "http://127.0.0.1.example.org",
        "http://localhost.example.org", "http://[fe80::1]", "http://0.0.0.0", "http://2130706433",
    ):  # fmt: skip
        with pytest.raises(ValueError, match="allow_http"):
            Client(url)
        Client(url, allow_http=True).close()
    for url in "http://127.0.0.1:8000", "http://localhost", "http://[::1]:8000", "https://a.b":
        Client(f"{url}/").close()


@pytest.mark.parametrize("secret", ["", "two words", "line\nbreak", "späth"])
def test_a_secret_that_no_header_can_hold_is_refused_without_showing_it(secret):
    with pytest.raises(ValueError, match="service secret") as known:
        Client("https://keys.example.org", service_secret=secret)
    assert not secret or secret not in str(known.value)
