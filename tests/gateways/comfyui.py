"""A stand-in for a ComfyUI with --multi-user: its users and their files, as in v0.26.2.

`GET /users` has the users by id, `POST /users` creates one with a random part in its id. A request
is of the user in the header Comfy-User, and of an unknown one 500. Requests that a page of another
site has caused are refused, and so are those whose Origin is not the Host, if that is loopback.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4

from tests.gateways.conftest import Backend, Handler, Seen

# What ComfyUI's page does: it loads a file of the user, and shows what the requests answered.
PAGE = b"""<!doctype html><title>ComfyUI</title><h1>ComfyUI</h1><pre id="log"></pre><script>
const log = document.getElementById("log");
async function load(path, options) {
  try {
    const response = await fetch(path, options);
    return `${response.status} ${await response.text()}`;
  } catch (error) { return `failed: ${error}`; }
}
async function run() {
  const users = await load("/api/users");
  const saved = await load("/api/userdata/workflow.json");
  const cookies = document.cookie;
  log.textContent = JSON.stringify({users, saved, cookies});
}
run();
</script>"""


class ComfyUI(Backend):
    """A backend with users. The files of a user are by path."""

    users: dict[str, str]
    files: dict[tuple[str, str], bytes]


class ComfyUIHandler(Handler):
    backend: ComfyUI
    # ComfyUI registers each path with this prefix as well.
    PREFIX: ClassVar = "/api"

    def do(self) -> None:
        path = self.path.partition("?")[0].removeprefix(self.PREFIX)
        match self.command, path:
            case _ if self._is_from_elsewhere():
                self._record()
                self._answer(403, b"")
            case "GET", "/":
                self._record()
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Cache-Control", "no-store, must-revalidate")
                self.send_header("Content-Length", str(len(PAGE)))
                self.end_headers()
                self.wfile.write(PAGE)
            case "GET", "/users":
                self._record()
                self._answer_json(200, {"storage": "server", "users": self.backend.users})
            case "POST", "/users":
                name = json.loads(self._record())["username"].strip()
                if not name or name in self.backend.users.values():
                    self._answer_json(400, {"error": "Duplicate username."})
                else:
                    user = re.sub("[^a-zA-Z0-9-_]+", "-", name) + f"_{uuid4()}"
                    self.backend.users[user] = name
                    self._answer_json(200, user)
            # A file is one segment: the slashes in its name are encoded.
            case method, raw if re.fullmatch("/userdata/[^/]+", raw):
                file = unquote(raw)
                query = parse_qs(urlsplit(self.path).query)
                body, user = self._record(), self.headers.get("Comfy-User", "default")
                if user not in self.backend.users:
                    self._answer_json(500, "500 Internal Server Error")
                elif (
                    method == "POST"
                    and query.get("overwrite") == ["false"]
                    and (user, file) in self.backend.files
                ):
                    self._answer_json(409, "File already exists")
                elif method == "POST":
                    self.backend.files[user, file] = body
                    self._answer_json(200, file)
                elif (user, file) in self.backend.files:
                    self._answer(200, self.backend.files[user, file])
                else:
                    self._answer_json(404, None)
            case _:
                super().do()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do  # noqa: N815

    def _is_from_elsewhere(self) -> bool:
        if self.headers.get("Sec-Fetch-Site") == "cross-site":
            return True
        host = urlsplit(f"//{self.headers.get('Host', '')}")
        origin = urlsplit(self.headers.get("Origin", ""))
        if host.hostname not in {"127.0.0.1", "localhost"} or not origin.netloc:
            return False
        has_ports = host.port is not None and origin.port is not None
        return host.netloc != origin.netloc if has_ports else host.hostname != origin.hostname

    def _record(self) -> bytes:
        headers = [(name.lower(), value) for name, value in self.headers.items()]
        self.backend.seen.append(Seen(self.command, self.path, headers))
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer_json(self, status: int, answer: Any) -> None:
        self._answer(status, json.dumps(answer).encode())


@contextmanager
def comfyui_with_users() -> Iterator[ComfyUI]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), ComfyUIHandler)
    server.daemon_threads = True
    started = ComfyUI(server.server_address[1])
    started.users, started.files = {}, {}
    server.RequestHandlerClass = type("Handler", (ComfyUIHandler,), {"backend": started})
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield started
    finally:
        started.may_go_on.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
