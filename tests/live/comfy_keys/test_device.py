"""The device flow of comfy-key (RFC 8628) against a scripted server.

The platform's answers are tested in test_login.py.
"""

import http.server
import json
import urllib.parse

import httpx
import pytest
from comfy_keys.device import DeviceAuthorization, DeviceLogin, LoginRefused

from tests.factories import invented_key
from tests.live.comfy_keys.conftest import listening

ASKED = {
    "device_code": "the-device-code",
    "user_code": "WDJB-MJHT",
    "verification_uri": "http://127.0.0.1:9/device",
    "expires_in": 600,
    "interval": 5,
}
PENDING = (400, {"error": "authorization_pending"})
SLOW_DOWN = (400, {"error": "slow_down"})
BROKEN = (0, {})
DOWN = (503, {"error": "temporarily_unavailable"})
LATER = (429, {"error": "temporarily_unavailable"})


class Server:
    """Give the scripted answers in turn, and record the requests."""

    def __init__(self, *answers, asked=None, metadata=None):
        self.answers = list(answers)
        self.asked = {**ASKED, **(asked or {})}
        self.metadata = metadata
        self.polls = []
        self.forms = []

    def handler(self):
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.say(*((200, server.metadata) if server.metadata else (404, {})))

            def do_POST(self):
                content = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = dict(urllib.parse.parse_qsl(content))
                if self.path == "/oauth/device/code":
                    server.forms.append(form)
                    self.say(200, server.asked)
                    return
                assert self.path == "/oauth/token"
                server.polls.append(form)
                status, body = server.answers.pop(0) if server.answers else PENDING
                if status:
                    self.say(status, body)

            def say(self, status, body):
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_arguments):
                pass

        return Handler


class Time:
    """A clock that sleep() advances; it records how long."""

    def __init__(self):
        self.now = 0.0
        self.slept = []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def time():
    return Time()


def login(server, time):
    with listening(server.handler()) as url, httpx.Client(trust_env=False) as client:
        machine = DeviceLogin(url, http=client, clock=time.clock, sleep=time.sleep)
        endpoints, request = machine.start(name="render box", scope="proxy:*")
        return machine.wait(endpoints, request)


def test_it_polls_at_the_given_interval(time):
    key = invented_key()
    server = Server(PENDING, PENDING, (200, {"access_token": key, "token_type": "Bearer"}))
    assert login(server, time) == key
    assert time.slept == [5, 5, 5]
    assert server.forms == [
        {"client_id": "comfy-key", "device_name": "render box", "scope": "proxy:*"}
    ]
    assert (
        server.polls
        == [
            {
                "client_id": "comfy-key",
                "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
                "device_code": "the-device-code",
            }
        ]
        * 3
    )


def test_slow_down_adds_five_seconds_to_the_interval(time):
    login(Server(SLOW_DOWN, PENDING, SLOW_DOWN, (200, {"access_token": invented_key()})), time)
    assert time.slept == [5, 10, 10, 15]


def test_the_default_interval_is_five_seconds(time):
    server = Server((200, {"access_token": invented_key()}))
    del server.asked["interval"]
    login(server, time)
    assert time.slept == [5]


@pytest.mark.parametrize("trouble", [BROKEN, DOWN, LATER, (502, "a page")])
def test_temporary_errors_are_retried(trouble, time):
    key = invented_key()
    server = Server(trouble, trouble, trouble, PENDING, (200, {"access_token": key}))
    assert login(server, time) == key
    assert time.slept == [5, 10, 20, 40, 5]


def test_it_ends_when_the_code_expires(time):
    with pytest.raises(LoginRefused, match="not confirmed in time"):
        login(Server(asked={"expires_in": 60}), time)
    assert time.slept == [5] * 12
    time.now, time.slept = 0.0, []
    with pytest.raises(LoginRefused, match="503"):
        login(Server(*[DOWN] * 100, asked={"expires_in": 60}), time)


def test_approval_in_the_last_second_counts(time):
    key = invented_key()
    server = Server(*[PENDING] * 11, DOWN, (200, {"access_token": key}), asked={"expires_in": 61})
    assert login(server, time) == key
    assert time.now == 70


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("access_denied", "was denied"),
        ("expired_token", "not confirmed in time"),
        ("invalid_grant", "no longer knows"),
        ("invalid_client", "does not know comfy-key"),
        ("something_new", "something_new"),
    ],
)
def test_an_error_ends_it_with_a_message(error, words, time):
    with pytest.raises(LoginRefused, match=words):
        login(Server((400, {"error": error})), time)
    assert time.slept == [5]


@pytest.mark.parametrize(
    "said",
    [
        {}, [], None, {"access_token": 5}, {"access_token": "a-token-of-another-kind"},
        {"access_token": invented_key()[:-1]}, {"access_token": f"{invented_key()}\n"},
    ],
)  # fmt: skip
def test_an_incomplete_key_is_refused(said, time):
    with pytest.raises(LoginRefused, match="no complete key") as refused:
        login(Server((200, said)), time)
    assert "comfyui-" not in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"device_code": ""}, {"device_code": None}, {"user_code": 5}, {"interval": "5"},
        {"interval": -1}, {"interval": True}, {"expires_in": 0}, {"expires_in": None},
        {"verification_uri": "javascript:alert(1)"}, {"verification_uri": "file:///etc/passwd"},
        {"verification_uri_complete": "ms-settings:"}, {"expires_in": float("nan")},
    ],
)  # fmt: skip
def test_an_invalid_answer_is_refused(wrong, time):
    with pytest.raises(LoginRefused, match="does not respond like a site"):
        login(Server(asked=wrong), time)


def test_times_given_by_the_server_are_bounded(time):
    with pytest.raises(LoginRefused):
        login(Server(asked={"expires_in": 10**9, "interval": 10**9}), time)
    assert time.now == 3600
    assert set(time.slept) == {60}


@pytest.mark.parametrize(
    "endpoint", ["https://elsewhere.example/oauth/token", "http://127.0.0.1:9/oauth/token", 5]
)
def test_codes_are_sent_to_no_other_server(endpoint, time):
    server = Server()
    with listening(server.handler()) as url, httpx.Client(trust_env=False) as client:
        server.metadata = {
            "issuer": url,
            "device_authorization_endpoint": f"{url}/oauth/device/code",
            "token_endpoint": endpoint,
        }
        machine = DeviceLogin(url, http=client, clock=time.clock, sleep=time.sleep)
        with pytest.raises(LoginRefused, match="does not respond like a site"):
            machine.start(name="x")
    assert server.forms == []


def test_the_device_code_is_in_no_repr():
    request = DeviceAuthorization(
        "WDJB-MJHT", "https://a/device", None, 0.0, 5.0, "the-device-code"
    )
    assert "the-device-code" not in repr(request)
