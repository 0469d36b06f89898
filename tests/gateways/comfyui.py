"""A stand-in for a ComfyUI with --multi-user: its users and their files, as in v0.26.2.

`GET /users` has the users by id, `POST /users` creates one with a random part in its id. A request
is of the user in the header Comfy-User, and of an unknown one 500.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar
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
            case "GET", "/":
                self._record()
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Cache-Control", "no-cache")
                self.send_header("Content-Length", str(len(PAGE)))
                self.end_headers()
                self.wfile.write(PAGE)
            case "GET", "/users":
                self._record()
                self._answer_json(200, {"storage": "server", "users": self.backend.users})
            case "POST", "/users":
                name = json.loads(self._record())["username"]
                if name in self.backend.users.values():
                    self._answer_json(400, {"error": "Duplicate username."})
                else:
                    user = f"{name}_{uuid4()}"
                    self.backend.users[user] = name
                    self._answer_json(200, user)
            case method, file if file.startswith("/userdata/"):
                body, user = self._record(), self.headers.get("Comfy-User", "default")
                if user not in self.backend.users:
                    self._answer_json(500, "500 Internal Server Error")
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
