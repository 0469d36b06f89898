"""A minimal ComfyUI server, with the endpoints that the frontend's built pages need to start.

The pages are served unchanged. The endpoints answer as a ComfyUI without models, workflows or
custom nodes does; `flags` is what its `--feature-flag` options set. `extensions` are folders with
scripts of custom nodes, by name.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

Flags = dict[str, str | bool]

# Settings of a returning user: no tour, and no templates of a first visit.
_SETTINGS = {"Comfy.TutorialCompleted": True}

_ANSWERS: dict[str, Any] = {
    "/api/system_stats": {
        "system": {
            "os": "linux",
            "python_version": "3.13.0",
            "embedded_python": False,
            "comfyui_version": "0.26.2",
            "pytorch_version": "2.9.0+cpu",
            "argv": ["main.py"],
            "ram_total": 2**34,
            "ram_free": 2**33,
        },
        "devices": [],
    },
    "/api/users": {"storage": "server", "migrated": True},
    "/api/settings": _SETTINGS,
    "/api/object_info": {},
    "/api/i18n": {},
    "/api/workflow_templates": {},
    "/api/global_subgraphs": {},
    "/api/embeddings": [],
    "/api/experiment/models": [],
    "/api/queue": {"queue_running": [], "queue_pending": []},
    "/api/jobs": {
        "jobs": [],
        "pagination": {"offset": 0, "limit": 200, "total": 0, "has_more": False},
    },
    "/api/history": {},
    "/api/prompt": {"exec_info": {"queue_remaining": 0}},
}


@contextmanager
def serving(pages: Path, flags: Flags, extensions: dict[str, Path] | None = None) -> Iterator[str]:
    """Yield the URL of a ComfyUI with the frontend in `pages`."""
    ended = Event()
    handler = partial(
        _ComfyUI, flags=flags, ended=ended, extensions=extensions or {}, directory=str(pages)
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            ended.set()
            server.shutdown()
            thread.join()


class _ComfyUI(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(
        self,
        *args: Any,
        flags: Flags,
        ended: Event,
        extensions: dict[str, Path],
        **kwargs: Any,
    ) -> None:
        self.flags = flags
        self.ended = ended
        self.extensions = extensions
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        if asked.path in {"/ws", "/api/ws"}:
            self._talk()
        elif asked.path == "/api/features":
            self._answer({"supports_preview_metadata": True, **self.flags})
        elif asked.path == "/api/extensions":
            self._answer(
                [
                    f"/extensions/{name}/{script.relative_to(folder)}"
                    for name, folder in self.extensions.items()
                    for script in folder.rglob("*.js")
                ]
            )
        elif asked.path in _ANSWERS:
            self._answer(_ANSWERS[asked.path])
        elif asked.path == "/api/userdata" and parse_qs(asked.query).get("dir"):
            self._answer([])
        elif asked.path.startswith("/api/"):
            self._answer({}, status=404)
        else:
            super().do_GET()

    def do_POST(self) -> None:
        """Accept and discard whatever the frontend saves."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer({})

    do_PUT = do_DELETE = do_POST  # noqa: N815 (the handler's names)

    def translate_path(self, path: str) -> str:
        """Return the file for a path: of an extension, or of the frontend."""
        match urlsplit(path).path.split("/"):
            case ["", "extensions", name, *rest] if name in self.extensions:
                return str(self.extensions[name].joinpath(*rest))
        return super().translate_path(path)

    def _answer(self, value: Any, *, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _talk(self) -> None:
        """Open the websocket (RFC 6455), and send the status of an idle ComfyUI."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode(), usedforsecurity=False).digest())
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept.decode())
        self.end_headers()
        status = {"exec_info": {"queue_remaining": 0}}
        text = json.dumps({"type": "status", "data": {"status": status, "sid": "1"}}).encode()
        # One final text frame, with a length of seven bits.
        self.wfile.write(bytes([0x81, len(text)]) + text)
        self.ended.wait()
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass
