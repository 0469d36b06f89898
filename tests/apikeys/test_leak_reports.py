"""Through which doors a found key is reported, who is let in, and what they are answered."""

import base64
import json
import re
import time
import zlib
from collections.abc import Iterator
from hashlib import sha256
from threading import BoundedSemaphore

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from django.core import mail
from django.core.cache import cache
from django.test import Client

from apikeys import githubkeys, services, tokens
from apikeys.api import leaks as api
from apikeys.services import Code
from audit.models import Action, Event
from tests.secret_scanning import Scanner, as_pem, matches, scanner

SECRET = slice(20, 56)
GITHUB = "/api/v1/leaks/github"
SERVICES = "/api/v1/leaks"
SERVICE_SECRET = "a-scanners-own-secret-of-32-characters"
NAMELESS = "f" * 64


def shows_none(answer, *found: tokens.Token) -> None:
    """Compared to a truth first: pytest would print the answer, and the key with it."""
    shown = [token.public_id for token in found if token.reveal()[SECRET] in answer.text]
    assert shown == []


def code_of(token: tokens.Token) -> Code:
    return services.validate(token.reveal()).code


@pytest.fixture
def leaked(issue) -> tokens.Token:
    token = issue("studio")[1]
    mail.outbox.clear()
    return token


# --- GitHub ----------------------------------------------------------------------------------


@pytest.fixture
def github(settings, db) -> Iterator[Scanner]:
    settings.GITHUB_LEAK_REPORTS = True
    githubkeys.forget()
    with scanner() as running:
        settings.GITHUB_SECRET_SCANNING_KEYS_URL = running.url
        yield running
    githubkeys.forget()


def told(client: Client, body: bytes, headers: dict[str, str]):
    return client.generic("POST", GITHUB, body, "application/json", headers=headers)


def later(monkeypatch, seconds: float) -> None:
    """The list that is known is so much older now, and nobody has asked for it meanwhile."""
    cache.clear()
    now = time.time() + seconds
    monkeypatch.setattr(githubkeys.time, "time", lambda: now)


def test_what_github_signed_is_heard_and_labelled(client, github, leaked):
    body = matches("nonsense", leaked.reveal(), api.WELL_FORMED)
    answer = told(client, body, github.signed(body))
    assert answer.status_code == 200
    assert answer["Cache-Control"] == "no-store"
    assert answer.json() == [
        {
            "token_hash": sha256(token.encode()).hexdigest(),
            "token_type": "comfyui_api_key",
            "label": label,
        }
        for token, label in [
            ("nonsense", "false_positive"),
            (leaked.reveal(), "true_positive"),
            (api.WELL_FORMED, "false_positive"),
        ]
    ]
    shows_none(answer, leaked)
    assert code_of(leaked) is Code.REVOKED
    event = Event.objects.get(action=Action.KEY_LEAKED)
    assert event.detail == {
        "reporter": "github",
        "found_at": "https://github.com/octocat/foo.env",
        "note": "content",
        "letter": "sent",
    }
    assert len(mail.outbox) == 1


def test_the_headers_count_however_they_are_spelt(client, github, leaked):
    body = matches(leaked.reveal())
    shouted = {name.upper(): value for name, value in github.signed(body).items()}
    assert told(client, body, shouted).status_code == 200


def test_a_match_without_an_address_is_one(client, github, leaked):
    body = json.dumps([{"token": leaked.reveal(), "type": "x", "url": None}]).encode()
    assert told(client, body, github.signed(body)).json()[0]["label"] == "true_positive"


def test_nobody_else_than_github_ends_a_key(client, github, leaked):
    body, other = matches(leaked.reveal()), matches("something else")
    good = github.signed(body)
    identifier, signature = good.values()
    stranger = ec.generate_private_key(ec.SECP256R1())
    theirs = base64.b64encode(stranger.sign(body, ec.ECDSA(SHA256()))).decode()
    names = list(good)
    for sent, headers in [
        (body, {}),
        (body, {names[0]: identifier}),
        (body, {names[1]: signature}),
        (body, {names[0]: "", names[1]: signature}),
        (body, {names[0]: NAMELESS, names[1]: signature}),
        (body, {names[0]: "../../x", names[1]: signature}),
        (body, {names[0]: "x" * 5000, names[1]: signature}),
        (body, {**good, names[1]: theirs}),
        (body, {**good, names[1]: signature[:-4]}),
        (body, {**good, names[1]: "no base64 ä"}),
        (body, {**good, names[1]: ""}),
        (body, {**good, names[1]: "A" * 9000}),
        (body, github.signed(other)),
        # The same words, and not the same bytes.
        (body + b" ", good),
        (json.dumps(json.loads(body)).encode(), good),
        (b"", good),
    ]:
        answer = told(client, sent, headers)
        assert (answer.status_code, answer.json()["error"]) == (403, "BAD_SIGNATURE")
        shows_none(answer, leaked)
    assert code_of(leaked) is Code.VALID
    assert told(client, body, good).status_code == 200


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(lambda: ec.generate_private_key(ec.SECP384R1()), id="another curve"),
        pytest.param(lambda: rsa.generate_private_key(65537, 2048), id="rsa"),
    ],
)
def test_a_listed_key_of_another_kind_signs_nothing(client, github, leaked, key):
    signs = key()
    entry = {"key_identifier": NAMELESS, "key": as_pem(signs.public_key())}
    github.answer = (200, json.dumps({"public_keys": [entry]}).encode())
    body = matches(leaked.reveal())
    signature = (
        signs.sign(body, ec.ECDSA(SHA256()))
        if isinstance(signs, ec.EllipticCurvePrivateKey)
        else b"\x30" * 70
    )
    headers = {
        "Github-Public-Key-Identifier": NAMELESS,
        "Github-Public-Key-Signature": base64.b64encode(signature).decode(),
    }
    assert told(client, body, headers).status_code == 403
    assert code_of(leaked) is Code.VALID


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"{}",
        b'"comfyui-"',
        b"[1]",
        b'[{"token": 1, "type": "x"}]',
        b'[{"type": "x"}]',
        b'[{"token": "x"}]',
        b'[{"token": "x", "type": "y", "url": {}}]',
        json.dumps([{"token": "x" * 5000, "type": "y"}]).encode(),
        json.dumps([{"token": "x", "type": "y"}] * 1001).encode(),
        b"[" + b" " * (1024 * 1024) + b"]",
    ],
    ids=lambda body: f"{bytes(body[:24])!r}",
)
def test_what_github_would_never_send_is_a_bad_request(client, github, body):
    answer = told(client, body, github.signed(body))
    assert (answer.status_code, answer.json()["error"]) == (400, "INVALID_REQUEST")


def test_a_thousand_matches_are_one_report(client, github, leaked):
    body = matches(*(f"nonsense {number}" for number in range(999)), leaked.reveal())
    answer = told(client, body, github.signed(body))
    assert [label["label"] for label in answer.json()] == ["false_positive"] * 999 + [
        "true_positive"
    ]


def test_another_type_of_body_is_refused(client, github):
    answer = client.post(GITHUB, {"token": "x"})
    assert answer.status_code == 415


def test_where_it_is_off_there_is_nothing(client, settings):
    assert settings.GITHUB_LEAK_REPORTS is False
    answer = told(client, b"[]", {})
    assert (answer.status_code, answer.json()["error"]) == (404, "NOT_FOUND")


def test_invented_names_of_keys_make_nobody_ask_github_often(client, github):
    for number in range(30):
        headers = {
            "Github-Public-Key-Identifier": f"{number:064x}",
            "Github-Public-Key-Signature": "AAAA",
        }
        assert told(client, b"[]", headers).status_code == 403
    assert github.asked == 1


def test_known_keys_are_kept_here_and_in_the_cache(client, github):
    body = b"[]"
    for _again in range(3):
        assert told(client, body, github.signed(body)).status_code == 200
    # Another process.
    githubkeys.forget()
    assert told(client, body, github.signed(body)).status_code == 200
    assert github.asked == 1


def test_a_new_key_of_githubs_is_asked_for(client, github, monkeypatch):
    assert told(client, b"[]", github.signed(b"[]")).status_code == 200
    newer = github.new_key()
    # It was just asked. GitHub lists a key before it signs with it.
    assert told(client, b"[]", github.signed(b"[]", newer)).status_code == 403
    later(monkeypatch, githubkeys.PAUSE + 1)
    assert told(client, b"[]", github.signed(b"[]", newer)).status_code == 200
    assert github.asked == 2


def test_a_key_that_github_took_back_signs_nothing_an_hour_later(client, github, monkeypatch):
    taken = next(iter(github.keys))
    headers = github.signed(b"[]")
    assert told(client, b"[]", headers).status_code == 200
    del github.keys[taken]
    github.new_key()
    later(monkeypatch, githubkeys.FRESH + 1)
    assert told(client, b"[]", headers).status_code == 403


@pytest.mark.parametrize(
    "answer",
    [
        (500, b""),
        (403, b'{"message": "API rate limit exceeded"}'),
        (302, b""),
        (200, b"{"),
        (200, b"[]"),
        (200, b'{"public_keys": 1}'),
        (200, b'{"public_keys": [{"key": "x"}]}'),
        (200, b"[" * 100_000),
        (200, b"\xff" * 300_000),
    ],
    ids=lambda answer: f"{answer[0]} {bytes(answer[1][:20])!r}",
)
def test_while_github_can_not_be_asked_nobody_is_judged(client, github, monkeypatch, answer):
    github.answer = answer
    refused = told(client, b"[]", github.signed(b"[]"))
    assert (refused.status_code, refused.json()["error"]) == (503, "SERVICE_UNAVAILABLE")
    assert refused["Retry-After"] == "5"
    # Nor is it asked again at once.
    assert told(client, b"[]", github.signed(b"[]")).status_code == 503
    assert github.asked == 1
    github.answer = None
    later(monkeypatch, 0)
    assert told(client, b"[]", github.signed(b"[]")).status_code == 200


def test_who_comes_while_somebody_asks_waits_for_the_answer(client, github, monkeypatch):
    """GitHub sends a report once. The first ones to come after a start must not be turned away."""
    cache.set(githubkeys._ASKED, githubkeys._ASKING)
    rounds = []

    def meanwhile(seconds: float) -> None:
        rounds.append(seconds)
        if len(rounds) == 3:
            # The other process has its answer.
            githubkeys._ask()
            githubkeys.forget()

    monkeypatch.setattr(githubkeys.time, "sleep", meanwhile)
    assert told(client, b"[]", github.signed(b"[]")).status_code == 200
    assert (len(rounds), github.asked) == (3, 1)


def test_few_wait_for_an_answer_of_githubs(client, github, monkeypatch):
    cache.set(githubkeys._ASKED, githubkeys._ASKING)
    monkeypatch.setattr(githubkeys, "_waiting", BoundedSemaphore(1))
    monkeypatch.setattr(githubkeys.time, "sleep", pytest.fail)
    with githubkeys._waiting:
        assert told(client, b"[]", github.signed(b"[]")).status_code == 503


def test_known_keys_last_a_day_without_github_and_no_longer(client, github, monkeypatch):
    headers = github.signed(b"[]")
    assert told(client, b"[]", headers).status_code == 200
    github.answer = (500, b"")
    later(monkeypatch, githubkeys.LAST - 60)
    assert told(client, b"[]", headers).status_code == 200
    later(monkeypatch, 120)
    assert told(client, b"[]", headers).status_code == 503


def test_a_clock_that_was_set_back_makes_nothing_fresh_for_ever(client, github, monkeypatch):
    headers = github.signed(b"[]")
    assert told(client, b"[]", headers).status_code == 200
    later(monkeypatch, -10 * githubkeys.LAST)
    assert told(client, b"[]", headers).status_code == 200
    assert github.asked == 2


# --- Other scanners --------------------------------------------------------------------------


def by_service(client: Client, body: object, secret: str = SERVICE_SECRET):
    return client.post(
        SERVICES, body, "application/json", headers={"authorization": f"Bearer {secret}"}
    )


def test_a_service_reports_and_is_answered_in_order(client, leaked, settings):
    settings.SERVICE_SECRETS = [SERVICE_SECRET]
    answer = by_service(
        client,
        {
            "leaks": [
                {"key": "nonsense"},
                {"key": leaked.reveal(), "url": "https://paste.example/1", "note": "by night"},
                {"key": leaked.reveal(), "url": None, "note": None},
            ]
        },
    )
    assert answer.status_code == 200
    assert answer.json() == {
        "leaks": [
            {"label": "false_positive"},
            {"label": "true_positive"},
            {"label": "true_positive"},
        ]
    }
    assert code_of(leaked) is Code.REVOKED
    event = Event.objects.get(action=Action.KEY_LEAKED)
    assert (event.detail["reporter"], event.detail["note"]) == ("service", "by night")
    assert event.address == "127.0.0.1"


@pytest.mark.parametrize(("known", "status"), [([], 404), ([SERVICE_SECRET], 401)])
def test_who_is_no_service_reports_nothing_here(client, leaked, settings, known, status):
    settings.SERVICE_SECRETS = known
    body = {"leaks": [{"key": leaked.reveal()}]}
    answer = by_service(client, body, secret="a guess")
    assert answer.status_code == status
    assert code_of(leaked) is Code.VALID


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"leaks": []},
        {"leaks": {"key": "x"}},
        {"leaks": ["x"]},
        {"leaks": [{}]},
        {"leaks": [{"key": 1}]},
        {"leaks": [{"key": "x"}] * 101},
        {"leaks": [{"key": "x", "note": "n" * 5000}]},
    ],
    ids=lambda body: json.dumps(body)[:30],
)
def test_a_report_that_can_not_be_understood_is_a_bad_request(client, settings, body):
    settings.SERVICE_SECRETS = [SERVICE_SECRET]
    answer = by_service(client, body)
    assert (answer.status_code, answer.json()["error"]) == (400, "INVALID_REQUEST")


# --- People ----------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["anybody", "mallory"])
def test_anybody_reports_a_key_and_is_thanked(who, client, signed_in, mallory, leaked, settings):
    browser = client if who == "anybody" else signed_in(mallory)
    assert browser.get("/leaks").status_code == 200
    answer = browser.post("/leaks", {"key": f" {leaked.reveal()}\n", "url": "https://a.example/x"})
    assert answer.status_code == 200
    assert "It was a key of this platform, and it opens nothing now." in answer.text
    for told_of_owner in ("alice", "studio", leaked.public_id):
        assert told_of_owner not in answer.text
    shows_none(answer, leaked)
    assert code_of(leaked) is Code.REVOKED
    event = Event.objects.get(action=Action.KEY_LEAKED)
    # Whoever helps is not noted: the owner reads what is.
    assert (event.detail["reporter"], event.actor, event.address) == ("person", None, None)
    assert event.detail["found_at"] == "https://a.example/x"


def test_words_for_where_it_was_are_for_staff_alone(client, leaked):
    client.post("/leaks", {"key": leaked.reveal(), "url": "on a poster at the station"})
    event = Event.objects.get(action=Action.KEY_LEAKED)
    assert (event.detail["found_at"], event.detail["note"]) == ("", "on a poster at the station")
    assert "poster" not in mail.outbox[0].body


@pytest.mark.parametrize("key", [api.WELL_FORMED, "forged"])
def test_a_key_of_no_account_is_no_matter(client, leaked, key):
    if key == "forged":
        body = leaked.reveal()[:20] + "0" * 36 + leaked.reveal()[56:64]
        key = f"{body}{zlib.crc32(body.encode()):08x}"
    answer = client.post("/leaks", {"key": key})
    assert answer.status_code == 200
    assert "This key opens nothing here" in answer.text
    assert code_of(leaked) is Code.VALID


def test_a_part_of_a_key_is_called_one_and_nothing_is_shown_again(client, leaked):
    part = leaked.reveal()[:-1]
    for where in (part, f"https://a.example/{part}", part.replace("-", "%2D")):
        answer = client.post("/leaks", {"key": part, "url": where})
        assert answer.status_code == 400
        assert "This is no whole key of this platform" in answer.text
        shows_none(answer, leaked)
    assert code_of(leaked) is Code.VALID


def test_an_empty_form_is_shown_again(client):
    answer = client.post("/leaks", {})
    assert answer.status_code == 400
    assert "This field is required." in answer.text


def test_guessing_here_is_no_faster_than_elsewhere(client, settings):
    answers = [client.post("/leaks", {"key": "comfyui-guess"}) for _ in range(21)]
    assert [answer.status_code for answer in answers] == [400] * 20 + [429]
    assert answers[-1]["Retry-After"] == "60"
    assert "That was tried too often." in answers[-1].text


def test_when_keys_can_not_be_checked_the_page_says_so(client, leaked, monkeypatch):
    def busy(*args: object, **kwargs: object) -> None:
        raise services.Busy

    monkeypatch.setattr(services, "validate", busy)
    answer = client.post("/leaks", {"key": leaked.reveal()})
    assert answer.status_code == 503
    assert answer["Retry-After"] == "5"
    shows_none(answer, leaked)


def test_another_sites_page_reports_nothing(leaked):
    client = Client(enforce_csrf_checks=True)
    assert client.post("/leaks", {"key": leaked.reveal()}).status_code == 403
    assert code_of(leaked) is Code.VALID


def test_the_page_is_found_from_where_keys_are_tried(client):
    assert 'href="/leaks"' in client.get("/connect").text


# --- What a key looks like -------------------------------------------------------------------


def test_the_format_is_published_with_where_to_report(client, settings):
    settings.SERVICE_SECRETS, settings.GITHUB_LEAK_REPORTS = [SERVICE_SECRET], True
    answer = client.get("/.well-known/api-key-format", headers={"origin": "https://a.example"})
    assert answer.status_code == 200
    assert answer["Access-Control-Allow-Origin"] == "*"
    assert answer.json()["report"] == {
        "people": f"{settings.PUBLIC_URL}/leaks",
        "services": f"{settings.PUBLIC_URL}/api/v1/leaks",
        "github": f"{settings.PUBLIC_URL}/api/v1/leaks/github",
    }
    settings.SERVICE_SECRETS, settings.GITHUB_LEAK_REPORTS = [], False
    assert set(client.get("/.well-known/api-key-format").json()["report"]) == {"people"}


def test_who_reads_the_format_alone_tells_keys_from_typos(client, issue):
    said = client.get("/.well-known/api-key-format").json()
    over, at = said["checksum"]["over"], said["checksum"]["at"]

    def is_one(text: str) -> bool:
        if not re.fullmatch(said["regex"], text) or len(text) != said["length"]:
            return False
        checksum = zlib.crc32(text[over["from"] : over["to"]].encode())
        return f"{checksum:08x}" == text[at["from"] : at["to"]]

    assert [is_one(vector["text"]) for vector in said["test_vectors"]] == [True, False]
    for vector in said["test_vectors"]:
        assert is_one(vector["text"]) is (tokens.flaw(vector["text"]) is None)
        assert services.validate(vector["text"]).code is not Code.VALID
    key, token = issue()
    assert is_one(token.reveal())
    public = slice(said["public_part"]["from"], said["public_part"]["to"])
    assert token.reveal()[public] + "…" == key.masked


def test_the_document_describes_the_doors(client):
    paths = client.get("/api/schema", headers={"accept": "application/json"}).json()["paths"]
    github = paths[GITHUB]["post"]
    assert {parameter["name"] for parameter in github["parameters"]} == {
        "Github-Public-Key-Identifier",
        "Github-Public-Key-Signature",
    }
    assert github["requestBody"]["content"]["application/json"]["schema"]["type"] == "array"
    assert set(github["responses"]) == {"200", "400", "403", "404", "415", "503"}
    assert paths[SERVICES]["post"]["security"] == [{"bearer": []}]
    assert "/.well-known/api-key-format" in paths


# --- Whom to tell of a weakness --------------------------------------------------------------


def test_without_a_contact_there_is_no_security_txt(client):
    assert client.get("/.well-known/security.txt").status_code == 404


@pytest.mark.parametrize("is_https", [True, False])
def test_security_txt_says_whom_to_tell_and_for_how_long_that_holds(client, settings, is_https):
    settings.SECURITY_CONTACT = ["mailto:security@keys.example", "https://keys.example/security"]
    settings.PUBLIC_URL = "https://keys.example"
    settings.HTTPS = is_https
    answer = client.get("/.well-known/security.txt")
    assert answer["Content-Type"] == "text/plain; charset=utf-8"
    lines = answer.text.splitlines()
    assert lines[:2] == [
        "Contact: mailto:security@keys.example",
        "Contact: https://keys.example/security",
    ]
    expires = next(line for line in lines if line.startswith("Expires: "))
    ends = time.mktime(time.strptime(expires, "Expires: %Y-%m-%dT%H:%M:%SZ"))
    assert 170 < (ends - time.time()) / 86400 < 181
    canonical = "Canonical: https://keys.example/.well-known/security.txt" in lines
    assert canonical is is_https
