"""An SMTP server for tests, and a client without scripts for pages that send e-mail."""

import re
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from http.cookiejar import CookieJar
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import HTTPCookieProcessor, HTTPRedirectHandler, Request, build_opener


def code_in(body: str) -> str:
    """Return the code: letters and digits on a separate line."""
    return re.search(r"^([A-Z0-9][A-Z0-9-]{4,})$", body, re.MULTILINE)[1]


def link_in(body: str) -> str:
    """Return the path of the link to an account page."""
    return urlsplit(re.search(r"https?://\S+/account/\S+", body)[0]).path


class _SMTP(socketserver.StreamRequestHandler):
    """As much of SMTP (RFC 5321) as receiving an e-mail needs."""

    def handle(self) -> None:
        self._say("220 sink")
        while line := self.rfile.readline().decode().strip():
            match line.split()[0].upper():
                case "DATA":
                    self._say("354 go on")
                    lines = []
                    while (line := self.rfile.readline()) not in {b".\r\n", b""}:
                        lines.append(line.removeprefix(b".") if line[:2] == b".." else line)
                    self.server.mails.append(b"".join(lines))
                    self._say("250 kept")
                case "QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 fine")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    mails: list[bytes]


@contextmanager
def mail_server(port: int = 0) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the EMAIL_URL of a server on `port` (any by default), and the e-mails received."""
    with _Server(("127.0.0.1", port), _SMTP) as server:
        server.mails = []
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"smtp://127.0.0.1:{server.server_address[1]}", server.mails
        finally:
            server.shutdown()
            thread.join()


class _Stay(HTTPRedirectHandler):
    def redirect_request(self, *args: object) -> None:
        return None


class Browser:
    """A client with cookies, which submits forms with the hidden fields of the page."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opener = build_opener(HTTPCookieProcessor(CookieJar()), _Stay)

    def get(self, path: str) -> tuple[int, str, str]:
        return self._open(Request(self._url + path))

    def post(self, path: str, page: str, **fields: str) -> tuple[int, str, str]:
        """Submit `fields` with the form of `page`."""
        _status, _location, form = self.get(page)
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form)[1]
        body = urlencode({"csrfmiddlewaretoken": token, **fields}).encode()
        return self._open(Request(self._url + path, body, {"Origin": self._url}))

    def _open(self, request: Request) -> tuple[int, str, str]:
        try:
            with self._opener.open(request, timeout=20) as response:
                return response.status, "", response.read().decode()
        except HTTPError as answer:
            with answer:
                return answer.code, answer.headers.get("Location", ""), answer.read().decode()


def arrived(mails: list[bytes], to: str) -> str:
    """Return the text of the first e-mail to `to`. It may arrive after the page was answered."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for mail in [message_from_bytes(mail, policy=policy.default) for mail in mails]:
            if mail["To"] == to:
                return mail.get_body(("plain",)).get_content().replace("\r\n", "\n")
        time.sleep(0.05)
    raise AssertionError(f"no mail to {to}")
