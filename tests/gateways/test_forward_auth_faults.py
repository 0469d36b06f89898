"""Forward authentication in nginx, Caddy and HAProxy while the platform refuses or is down."""

import json
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from tests.gateways.conftest import (
    Backend,
    Certificates,
    assert_no_secret_logged,
    forward_auth,
)
from tests.live.conftest import Folder, Pool, join, serving

PROXIES = ["nginx", "caddy", "haproxy"]


@pytest.mark.parametrize("name", PROXIES)
def test_guesses_are_limited_and_a_valid_key_passes(
    name: str, pool: Pool, comfyui: Backend, certificates: Certificates, tmp_path: Path
) -> None:
    # All three have one client IP; the pool clears its count.
    strict = pool(GUESSES_PER_MINUTE="60")
    good = join(strict, keys=1).keys[0].token
    keys = strict.url.removeprefix("http://")
    with forward_auth(
        name, tmp_path / "proxy", certificates, keys=keys, comfyui=comfyui
    ) as reverse_proxy:
        for _ in range(400):
            refused = reverse_proxy.ask("/prompt", key="nonsense")
            if refused.status != 401:
                break
        assert (refused.status, refused.json()["error"]) == (429, "TOO_MANY_REQUESTS")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert reverse_proxy.ask("/prompt", key=good).status == 200


def test_while_the_platform_is_down_all_requests_are_refused(
    fresh_folder: Folder, comfyui: Backend, certificates: Certificates, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        running = stack.enter_context(serving(fresh_folder()))
        keys = running.url.removeprefix("http://")
        key = join(running, keys=1).keys[0].token
        proxies = [
            stack.enter_context(
                forward_auth(name, tmp_path / name, certificates, keys=keys, comfyui=comfyui)
            )
            for name in PROXIES
        ]
        for reverse_proxy in proxies:
            assert reverse_proxy.ask("/prompt", key=key).status == 200
        running.process.terminate()
        running.process.wait(timeout=30)
        before = len(comfyui.seen)
        for reverse_proxy in proxies:
            for headers in ([("X-API-Key", key)], [], [("Origin", "http://a")]):
                answer = reverse_proxy.ask("/prompt", *headers, method="POST", body=b"{}")
                assert answer.status == 503
                assert int(answer.headers["retry-after"]) > 0
                assert json.loads(answer.body)["error"] == "SERVICE_UNAVAILABLE"
            assert_no_secret_logged(reverse_proxy, running)
        assert len(comfyui.seen) == before


class _Fake(BaseHTTPRequestHandler):
    """An HTTP server at the platform's URL with other answers."""

    answer: ClassVar[tuple[int, dict[str, str]]] = (204, {})

    def do_GET(self) -> None:
        status, headers = self.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Print nothing: tests print the requests."""


@pytest.mark.parametrize(
    "answer",
    [
        # 200 without the headers of a verdict: an error in Lua, after which HAProxy continues.
        (204, {}),
        (204, {"X-Auth-User": "a", "X-Auth-Email": "b", "X-Auth-Scopes": "c"}),
        (200, {"X-Auth-Key-Id": "a"}),
        (302, {"Location": "/login"}),
        (500, {}),
        (418, {}),
    ],
)
def test_haproxy_refuses_requests_on_an_invalid_answer(
    answer: tuple[int, dict[str, str]],
    comfyui: Backend,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Fake", (_Fake,), {"answer": answer}))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    keys = f"127.0.0.1:{server.server_address[1]}"
    before = len(comfyui.seen)
    try:
        with forward_auth(
            "haproxy", tmp_path / "proxy", certificates, keys=keys, comfyui=comfyui
        ) as reverse_proxy:
            refused = reverse_proxy.ask("/prompt", key="comfyui-something")
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
    assert (refused.status, refused.json()["error"]) == (503, "SERVICE_UNAVAILABLE")
    assert int(refused.headers["retry-after"]) > 0
    assert len(comfyui.seen) == before
