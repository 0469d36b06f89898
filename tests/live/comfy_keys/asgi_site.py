"""A third-party ASGI application that requires an API key."""

import json
import os
from typing import Any

from comfy_keys import AsyncClient
from comfy_keys.asgi import RequireComfyKey


async def inside(scope: Any, receive: Any, send: Any) -> None:
    """Return the verdict on the key as JSON. A websocket gets the same text and is closed."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    verdict = scope.get("comfy_key")
    answer = json.dumps({"email": verdict and verdict.customer.email, "words": repr(verdict)})
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": answer})
        await send({"type": "websocket.close"})
        return
    body = answer.encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def application(scope: Any, receive: Any, send: Any) -> None:
    await _guarded(scope, receive, send)


_client = AsyncClient(os.environ["KEYS_URL"], cache_for=0.5, timeout=2.0)
_guarded = RequireComfyKey(
    inside,
    client=_client,
    scope=os.environ.get("KEYS_SCOPE"),
    exempt=["/health", "/docs/*"],
)
