"""An ASGI application and REST framework refuse what the client finds no good verdict on.

The real client, without a platform: malformed keys need no request, and a server answers as the
platform does. tests/live/comfy_keys has real platforms.
"""

import asyncio
from typing import Any

import pytest
from comfy_keys import AsyncClient, Client, drf
from comfy_keys.asgi import RequireComfyKey
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.test import APIRequestFactory

from tests.comfy_keys.test_connections import ANSWER, KEY
from tests.live.comfy_keys.conftest import fixed_server, http_answer

GOOD = http_answer("200 OK", (ANSWER % KEY[:20]).encode())

# Nothing is sent there.
URL = "https://keys.example.org"


def status_of(
    path: str = "/", *, method: str = "GET", key: str = "", url: str = URL, **options: Any
) -> int:
    """Return the status of a request to an application that requires a key: 200 if it is called."""
    sent: list[Any] = []

    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Any) -> None:
        sent.append(message)

    async def call() -> None:
        headers = [(b"x-api-key", key.encode())] if key else []
        scope = {"type": "http", "method": method, "path": path, "headers": headers}
        async with AsyncClient(url) as client:
            middleware = RequireComfyKey(application, client=client, **options)
            await middleware(scope, None, send)  # type: ignore[arg-type]

    asyncio.run(call())
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health", 200), ("/docs/a/b", 200), ("/healthx", 401), ("/docs", 401), ("/docsx", 401),
        ("/docs/../admin", 401), ("/docs//admin", 401), ("/docs/./admin", 401),
        ("/docs/..\\admin", 401),
    ],
)  # fmt: skip
def test_only_exempt_paths_need_no_key(path: str, status: int) -> None:
    assert status_of(path, exempt=["/health", "/docs/*"]) == status


def test_an_invalid_key_is_401() -> None:
    assert status_of(key="comfyui-nonsense") == 401
    assert status_of() == 401
    assert status_of(method="OPTIONS") == 401


def test_a_key_needs_the_scope() -> None:
    with fixed_server(GOOD) as platform:
        assert status_of(key=KEY, url=platform.url) == 200
        assert status_of(key=KEY, url=platform.url, scope="customers:read") == 200
        assert status_of(key=KEY, url=platform.url, scope="proxy:openai") == 403


def test_without_a_verdict_it_is_503() -> None:
    with fixed_server(b"") as platform:
        assert status_of(key=KEY, url=platform.url) == 503


def test_rest_framework_refuses_an_invalid_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(URL) as client:
        monkeypatch.setattr(drf, "client", lambda: client)
        request: Any = APIRequestFactory().get("/", headers={"X-API-Key": "comfyui-nonsense"})
        with pytest.raises(AuthenticationFailed) as refused:
            drf.ComfyKeyAuthentication().authenticate(request)
        assert refused.value.get_codes() == "MALFORMED"


def test_rest_framework_asks_for_the_scope() -> None:
    with fixed_server(GOOD) as platform, Client(platform.url) as client:
        request: Any = APIRequestFactory().get("/")
        request.auth = client.validate(KEY)
        view: Any = None
        assert drf.HasScope("customers:read")().has_permission(request, view)
        assert not drf.HasScope("proxy:openai")().has_permission(request, view)
        request.auth = None
        assert not drf.HasScope("customers:read")().has_permission(request, view)
