"""ASGI applications and REST framework pass the IP of the client, and answer 403 by its network."""

import asyncio
from typing import Any

import pytest
from comfy_keys import BadVerdict, drf
from comfy_keys.asgi import RequireComfyKey
from rest_framework.exceptions import PermissionDenied
from rest_framework.test import APIRequestFactory

from tests.factories import invented_key

REFUSED = BadVerdict("NETWORK_NOT_ALLOWED", "This API key can't be used from this network.")


class FakeClient:
    """A client that refuses every network, and remembers the clients it was asked about."""

    def __init__(self) -> None:
        self.client_ips: list[str] = []

    def validate(self, key: str, *, client_ip: str) -> BadVerdict:
        self.client_ips.append(client_ip)
        return REFUSED


class FakeAsyncClient(FakeClient):
    async def validate(self, key: str, *, client_ip: str) -> BadVerdict:  # type: ignore[override]
        return super().validate(key, client_ip=client_ip)


@pytest.mark.parametrize(
    ("client", "client_ip"), [(("203.0.113.7", 4711), "203.0.113.7"), (None, "")]
)
def test_an_asgi_application_answers_403(client: Any, client_ip: str) -> None:
    fake = FakeAsyncClient()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def call() -> None:
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": [(b"x-api-key", invented_key().encode())],
            "client": client,
        }
        application: Any = None
        middleware = RequireComfyKey(application, client=fake)  # type: ignore[arg-type]
        await middleware(scope, None, send)  # type: ignore[arg-type]

    asyncio.run(call())
    assert fake.client_ips == [client_ip]
    assert sent[0]["status"] == 403
    assert b"NETWORK_NOT_ALLOWED" in sent[1]["body"]
    assert b"www-authenticate" not in dict(sent[0]["headers"])


def test_rest_framework_answers_403(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeClient()
    monkeypatch.setattr(drf, "client", lambda: fake)
    request: Any = APIRequestFactory().get(
        "/", headers={"X-API-Key": invented_key()}, REMOTE_ADDR="203.0.113.7"
    )
    with pytest.raises(PermissionDenied) as refused:
        drf.ComfyKeyAuthentication().authenticate(request)
    assert fake.client_ips == ["203.0.113.7"]
    assert refused.value.get_codes() == "NETWORK_NOT_ALLOWED"
