"""Middleware for FastAPI, Starlette and any other ASGI application: requires a valid key.

    app.add_middleware(RequireComfyKey, client=client, exempt=["/health", "/docs/*"])

The client's IP is `scope["client"]`: behind a proxy, let the server take it from the proxy's
headers.
The application finds the Verdict in `scope["comfy_key"]`, as in
`request.scope["comfy_key"].customer.email`.
Add CORS middleware after it, so that refusals get its headers as well; preflights pass.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

from comfy_keys import headers
from comfy_keys.client import AsyncClient
from comfy_keys.errors import NoVerdict
from comfy_keys.verdicts import NETWORK_NOT_ALLOWED

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_DENIAL: Final = "websocket.http.response"
_POLICY_VIOLATION: Final = 1008


class RequireComfyKey:
    """Pass requests and websockets with a valid key; others get 401, 403 or 503.

    scope: a scope that the key needs, such as "proxy:openai".
    exempt: paths that need no key: one path, or all below it with `/*` at the end.
    """

    def __init__(
        self,
        app: Application,
        *,
        client: AsyncClient,
        scope: str | None = None,
        exempt: Iterable[str] = (),
    ) -> None:
        if isinstance(exempt, str):
            raise TypeError("exempt takes several paths, not one")
        self._app = app
        self._client = client
        self._scope = scope
        exempt = list(exempt)
        self._exempt = {path for path in exempt if not path.endswith("/*")}
        self._exempt_prefixes = tuple(path[:-1] for path in exempt if path.endswith("/*"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._is_exempt(scope):
            await self._app(scope, receive, send)
            return
        key = headers.presented_key(_header(scope, b"x-api-key"), _header(scope, b"authorization"))
        if key is None:
            refusal = _refusal(401, "UNAUTHORIZED", headers.NO_KEY, challenge=headers.CHALLENGE)
            await refusal(scope, receive, send)
            return
        try:
            client_ip, _port = scope.get("client") or ("", 0)
            verdict = await self._client.validate(key, client_ip=client_ip)
        except NoVerdict as problem:
            refusal = _refusal(
                503, "SERVICE_UNAVAILABLE", headers.UNAVAILABLE, retry_after=problem.retry_after
            )
        else:
            if verdict.code == NETWORK_NOT_ALLOWED:
                refusal = _refusal(403, verdict.code, verdict.message)
            elif not verdict:
                refusal = _refusal(
                    401, verdict.code, verdict.message, challenge=headers.invalid_token_challenge()
                )
            elif self._scope is not None and not verdict.covers(self._scope):
                refusal = _refusal(
                    403,
                    "INSUFFICIENT_SCOPE",
                    headers.missing_scope_message(self._scope),
                    challenge=headers.insufficient_scope_challenge(self._scope),
                )
            else:
                await self._app({**scope, "comfy_key": verdict}, receive, send)
                return
        await refusal(scope, receive, send)

    def _is_exempt(self, scope: Scope) -> bool:
        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            # A preflight can't have a key (Fetch standard §3.3); this header identifies it.
            return _header(scope, b"access-control-request-method") is not None
        path: str = scope["path"]
        if path in self._exempt:
            return True
        # An application may resolve `/docs/../admin` to `/admin`.
        is_plain = not {"", ".", ".."} & set(path.strip("/").split("/")) and "\\" not in path
        return is_plain and path.startswith(self._exempt_prefixes)


def _header(scope: Scope, name: bytes) -> str | None:
    """Return the value of a header, several joined with commas: no key has a comma."""
    values = [value for known, value in scope["headers"] if known.lower() == name]
    return b",".join(values).decode("latin-1") if values else None


def _refusal(
    status: int,
    code: str,
    message: str,
    *,
    challenge: str | None = None,
    retry_after: float | None = None,
) -> Application:
    body = json.dumps({"error": code, "message": message}).encode()
    sent = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if challenge is not None:
        sent.append((b"www-authenticate", challenge.encode("latin-1")))
    if retry_after is not None:
        sent.append((b"retry-after", str(headers.retry_after(retry_after)).encode()))

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        kind = "http.response"
        if scope["type"] == "websocket":
            await receive()
            if _DENIAL not in (scope.get("extensions") or {}):
                await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
                return
            kind = _DENIAL
        await send({"type": f"{kind}.start", "status": status, "headers": sent})
        await send({"type": f"{kind}.body", "body": body})

    return refuse
