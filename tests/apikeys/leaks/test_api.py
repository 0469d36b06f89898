"""The endpoints and the page to report leaked keys: authentication and responses."""

import base64
import json
import re
import time
import zlib
from collections.abc import Iterator
from hashlib import sha256
from html import unescape
from threading import BoundedSemaphore

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from django.core import mail
from django.core.cache import cache
from django.test import Client

from apikeys import services, tokens
from apikeys.leaks import api as api
from apikeys.leaks import github as github_reports
from apikeys.services import VerdictCode
from audit.models import Action, Event
from core.exceptions import HashingBusy
from tests.secret_scanning import Scanner, as_pem, matches, scanner

SECRET = slice(20, 56)
GITHUB = "/api/v1/leaks/github"
SERVICES = "/api/v1/leaks"
SERVICE_SECRET = "a-scanners-own-secret-of-32-characters"
NAMELESS = "f" * 64


def shows_none(response, *found: tokens.Token) -> None:
    """Compared to a truth first: pytest would print the answer, and the key with it."""
    shown = [token.public_id for token in found if token.reveal()[SECRET] in response.text]
    assert shown == []


def code_of(token: tokens.Token) -> VerdictCode:
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
    github_reports.clear()
    with scanner() as running:
        settings.GITHUB_SECRET_SCANNING_KEYS_URL = running.url
        yield running
    github_reports.clear()


def report(client: Client, body: bytes, headers: dict[str, str]):
    return client.generic("POST", GITHUB, body, "application/json", headers=headers)


def later(monkeypatch, seconds: float) -> None:
    """The list that is known is so much older now, and nobody has asked for it meanwhile."""
    cache.clear()
    now = time.time() + seconds
    monkeypatch.setattr(github_reports.time, "time", lambda: now)


def test_a_signed_report_of_github_is_labelled(client, github, leaked):
    body = matches("nonsense", leaked.reveal(), api.WELL_FORMED)
    response = report(client, body, github.signed(body))
    assert response.status_code == 200
    assert response["Cache-Control"] == "no-store"
    assert response.json() == [
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
    shows_none(response, leaked)
    assert code_of(leaked) is VerdictCode.REVOKED
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
    assert report(client, body, shouted).status_code == 200


def test_a_match_without_an_address_is_one(client, github, leaked):
    body = json.dumps([{"token": leaked.reveal(), "type": "x", "url": None}]).encode()
    assert report(client, body, github.signed(body)).json()[0]["label"] == "true_positive"


def test_reports_without_githubs_signature_are_refused(client, github, leaked):
    body, other = matches(leaked.reveal()), matches("something else")
    good = github.signed(body)
    identifier, signature = good.values()
    unknown_key = ec.generate_private_key(ec.SECP256R1())
    theirs = base64.b64encode(unknown_key.sign(body, ec.ECDSA(SHA256()))).decode()
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
        response = report(client, sent, headers)
        assert (response.status_code, response.json()["error"]) == (403, "BAD_SIGNATURE")
        shows_none(response, leaked)
    assert code_of(leaked) is VerdictCode.VALID
    assert report(client, body, good).status_code == 200


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
    assert report(client, body, headers).status_code == 403
    assert code_of(leaked) is VerdictCode.VALID


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
def test_a_malformed_report_of_github_is_a_bad_request(client, github, body):
    response = report(client, body, github.signed(body))
    assert (response.status_code, response.json()["error"]) == (400, "INVALID_REQUEST")


def test_a_thousand_matches_are_one_report(client, github, leaked):
    body = matches(*(f"nonsense {number}" for number in range(999)), leaked.reveal())
    response = report(client, body, github.signed(body))
    assert [label["label"] for label in response.json()] == ["false_positive"] * 999 + [
        "true_positive"
    ]


def test_another_type_of_body_is_refused(client, github):
    response = client.post(GITHUB, {"token": "x"})
    assert response.status_code == 415


def test_without_the_setting_the_endpoint_is_not_found(client, settings):
    assert settings.GITHUB_LEAK_REPORTS is False
    response = report(client, b"[]", {})
    assert (response.status_code, response.json()["error"]) == (404, "NOT_FOUND")


def test_unknown_identifiers_cause_few_requests_to_github(client, github):
    for number in range(30):
        headers = {
            "Github-Public-Key-Identifier": f"{number:064x}",
            "Github-Public-Key-Signature": "AAAA",
        }
        assert report(client, b"[]", headers).status_code == 403
    assert github.asked == 1


def test_known_keys_are_kept_here_and_in_the_cache(client, github):
    body = b"[]"
    for _again in range(3):
        assert report(client, body, github.signed(body)).status_code == 200
    # Another process.
    github_reports.clear()
    assert report(client, body, github.signed(body)).status_code == 200
    assert github.asked == 1


def test_a_new_key_of_githubs_is_asked_for(client, github, monkeypatch):
    assert report(client, b"[]", github.signed(b"[]")).status_code == 200
    newer = github.new_key()
    # It was just asked. GitHub lists a key before it signs with it.
    assert report(client, b"[]", github.signed(b"[]", newer)).status_code == 403
    later(monkeypatch, github_reports.PAUSE + 1)
    assert report(client, b"[]", github.signed(b"[]", newer)).status_code == 200
    assert github.asked == 2


def test_a_key_that_github_took_back_signs_nothing_an_hour_later(client, github, monkeypatch):
    taken = next(iter(github.keys))
    headers = github.signed(b"[]")
    assert report(client, b"[]", headers).status_code == 200
    del github.keys[taken]
    github.new_key()
    later(monkeypatch, github_reports.FRESH + 1)
    assert report(client, b"[]", headers).status_code == 403


@pytest.mark.parametrize(
    "response",
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
    ids=lambda response: f"{response[0]} {bytes(response[1][:20])!r}",
)
def test_while_github_is_unreachable_reports_get_503(client, github, monkeypatch, response):
    github.answer = response
    refused = report(client, b"[]", github.signed(b"[]"))
    assert (refused.status_code, refused.json()["error"]) == (503, "SERVICE_UNAVAILABLE")
    assert refused.json()["cause"] == "github_keys_unavailable"
    assert refused["Retry-After"] == "5"
    # Nor is it asked again at once.
    assert report(client, b"[]", github.signed(b"[]")).status_code == 503
    assert github.asked == 1
    github.answer = None
    later(monkeypatch, 0)
    assert report(client, b"[]", github.signed(b"[]")).status_code == 200


def test_a_concurrent_report_waits_for_the_request_to_github(client, github, monkeypatch):
    """GitHub sends a report once. The first ones to come after a start must not be turned away."""
    cache.set(github_reports.FETCH_STATE, github_reports.FETCHING)
    rounds = []

    def meanwhile(seconds: float) -> None:
        rounds.append(seconds)
        if len(rounds) == 3:
            # The other process has its answer.
            github_reports._fetch_and_release()
            github_reports.clear()

    monkeypatch.setattr(github_reports.time, "sleep", meanwhile)
    assert report(client, b"[]", github.signed(b"[]")).status_code == 200
    assert (len(rounds), github.asked) == (3, 1)


def test_few_wait_for_an_answer_of_githubs(client, github, monkeypatch):
    cache.set(github_reports.FETCH_STATE, github_reports.FETCHING)
    monkeypatch.setattr(github_reports, "_waiting", BoundedSemaphore(1))
    monkeypatch.setattr(github_reports.time, "sleep", pytest.fail)
    with github_reports._waiting:
        assert report(client, b"[]", github.signed(b"[]")).status_code == 503


def test_known_keys_last_a_day_without_github_and_no_longer(client, github, monkeypatch):
    headers = github.signed(b"[]")
    assert report(client, b"[]", headers).status_code == 200
    github.answer = (500, b"")
    later(monkeypatch, github_reports.LAST - 60)
    assert report(client, b"[]", headers).status_code == 200
    later(monkeypatch, 120)
    assert report(client, b"[]", headers).status_code == 503


def test_a_clock_that_was_set_back_makes_nothing_fresh_for_ever(client, github, monkeypatch):
    headers = github.signed(b"[]")
    assert report(client, b"[]", headers).status_code == 200
    later(monkeypatch, -10 * github_reports.LAST)
    assert report(client, b"[]", headers).status_code == 200
    assert github.asked == 2


# --- Other scanners --------------------------------------------------------------------------


def by_service(client: Client, body: object, secret: str = SERVICE_SECRET):
    return client.post(
        SERVICES, body, "application/json", headers={"authorization": f"Bearer {secret}"}
    )


def test_a_service_reports_and_is_answered_in_order(client, leaked, settings):
    settings.SERVICE_SECRETS = [SERVICE_SECRET]
    response = by_service(
        client,
        {
            "leaks": [
                {"key": "nonsense"},
                {"key": leaked.reveal(), "url": "https://paste.example/1", "note": "by night"},
                {"key": leaked.reveal(), "url": None, "note": None},
            ]
        },
    )
    assert response.status_code == 200
    assert response.json() == {
        "leaks": [
            {"label": "false_positive"},
            {"label": "true_positive"},
            {"label": "true_positive"},
        ]
    }
    assert code_of(leaked) is VerdictCode.REVOKED
    event = Event.objects.get(action=Action.KEY_LEAKED)
    assert (event.detail["reporter"], event.detail["note"]) == ("service", "by night")
    assert event.address == "127.0.0.1"


def test_a_report_without_url_and_note_has_none(client, leaked, settings):
    settings.SERVICE_SECRETS = [SERVICE_SECRET]
    assert by_service(client, {"leaks": [{"key": leaked.reveal()}]}).status_code == 200
    detail = Event.objects.get(action=Action.KEY_LEAKED).detail
    assert detail["found_at"] == ""
    assert "note" not in detail


@pytest.mark.parametrize(("known", "status"), [([], 404), ([SERVICE_SECRET], 401)])
def test_a_report_without_a_service_secret_is_refused(client, leaked, settings, known, status):
    settings.SERVICE_SECRETS = known
    body = {"leaks": [{"key": leaked.reveal()}]}
    response = by_service(client, body, secret="a guess")
    assert response.status_code == status
    assert code_of(leaked) is VerdictCode.VALID


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
def test_a_malformed_report_is_a_bad_request(client, settings, body):
    settings.SERVICE_SECRETS = [SERVICE_SECRET]
    response = by_service(client, body)
    assert (response.status_code, response.json()["error"]) == (400, "INVALID_REQUEST")


# --- People ----------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["anybody", "mallory"])
def test_anybody_reports_a_key_and_is_thanked(who, client, signed_in, mallory, leaked, settings):
    browser = client if who == "anybody" else signed_in(mallory)
    assert browser.get("/leaks").status_code == 200
    response = browser.post(
        "/leaks", {"key": f" {leaked.reveal()}\n", "url": "https://a.example/x"}
    )
    assert response.status_code == 200
    assert "It was an API key of this site and no longer works." in response.text
    for private in ("alice", "studio", leaked.public_id):
        assert private not in response.text
    shows_none(response, leaked)
    assert code_of(leaked) is VerdictCode.REVOKED
    event = Event.objects.get(action=Action.KEY_LEAKED)
    # Nothing is stored about the reporter, since the owner can read the event.
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
    response = client.post("/leaks", {"key": key})
    assert response.status_code == 200
    assert "This key gives no access" in response.text
    assert code_of(leaked) is VerdictCode.VALID


def test_a_part_of_a_key_is_called_one_and_nothing_is_shown_again(client, leaked):
    part = leaked.reveal()[:-1]
    for where in (part, f"https://a.example/{part}", part.replace("-", "%2D")):
        response = client.post("/leaks", {"key": part, "url": where})
        assert response.status_code == 400
        assert "This isn't a complete key" in unescape(response.text)
        shows_none(response, leaked)
    assert code_of(leaked) is VerdictCode.VALID


def test_an_empty_form_is_shown_again(client):
    response = client.post("/leaks", {})
    assert response.status_code == 400
    assert "This field is required." in response.text


def test_guessing_here_is_no_faster_than_elsewhere(client, settings):
    answers = [client.post("/leaks", {"key": "comfyui-guess"}) for _ in range(21)]
    assert [response.status_code for response in answers] == [400] * 20 + [429]
    assert answers[-1]["Retry-After"] == "60"
    assert "Too many attempts." in answers[-1].text


def test_when_keys_can_not_be_checked_the_page_says_so(client, leaked, monkeypatch):
    def busy(*args: object, **kwargs: object) -> None:
        raise HashingBusy

    monkeypatch.setattr(services, "validate", busy)
    response = client.post("/leaks", {"key": leaked.reveal()})
    assert response.status_code == 503
    assert response["Retry-After"] == "5"
    shows_none(response, leaked)


def test_another_sites_page_reports_nothing(leaked):
    client = Client(enforce_csrf_checks=True)
    assert client.post("/leaks", {"key": leaked.reveal()}).status_code == 403
    assert code_of(leaked) is VerdictCode.VALID


def test_the_page_is_found_from_where_keys_are_tried(client):
    assert 'href="/leaks"' in client.get("/connect").text


# --- What a key looks like -------------------------------------------------------------------


def test_the_format_is_published_with_where_to_report(client, settings):
    settings.SERVICE_SECRETS, settings.GITHUB_LEAK_REPORTS = [SERVICE_SECRET], True
    response = client.get("/.well-known/api-key-format", headers={"origin": "https://a.example"})
    assert response.status_code == 200
    assert response["Access-Control-Allow-Origin"] == "*"
    assert response.json()["report"] == {
        "people": f"{settings.PUBLIC_URL}/leaks",
        "services": f"{settings.PUBLIC_URL}/api/v1/leaks",
        "github": f"{settings.PUBLIC_URL}/api/v1/leaks/github",
    }
    settings.SERVICE_SECRETS, settings.GITHUB_LEAK_REPORTS = [], False
    assert set(client.get("/.well-known/api-key-format").json()["report"]) == {"people"}


def test_the_published_format_detects_typos(client, issue):
    said = client.get("/.well-known/api-key-format").json()
    over, at = said["checksum"]["over"], said["checksum"]["at"]

    def is_one(text: str) -> bool:
        if not re.fullmatch(said["regex"], text) or len(text) != said["length"]:
            return False
        checksum = zlib.crc32(text[over["from"] : over["to"]].encode())
        return f"{checksum:08x}" == text[at["from"] : at["to"]]

    assert [is_one(vector["text"]) for vector in said["test_vectors"]] == [True, False]
    for vector in said["test_vectors"]:
        assert is_one(vector["text"]) is (tokens.shape_error(vector["text"]) is None)
        assert services.validate(vector["text"]).code is not VerdictCode.VALID
    key, token = issue()
    assert is_one(token.reveal())
    public = slice(said["public_part"]["from"], said["public_part"]["to"])
    assert token.reveal()[public] + "…" == key.masked


def test_the_openapi_document_describes_the_endpoints(client):
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
def test_security_txt_has_a_contact_and_an_expiry(client, settings, is_https):
    settings.SECURITY_CONTACT = ["mailto:security@keys.example", "https://keys.example/security"]
    settings.PUBLIC_URL = "https://keys.example"
    settings.HTTPS = is_https
    response = client.get("/.well-known/security.txt")
    assert response["Content-Type"] == "text/plain; charset=utf-8"
    lines = response.text.splitlines()
    assert lines[:2] == [
        "Contact: mailto:security@keys.example",
        "Contact: https://keys.example/security",
    ]
    expires = next(line for line in lines if line.startswith("Expires: "))
    ends = time.mktime(time.strptime(expires, "Expires: %Y-%m-%dT%H:%M:%SZ"))
    assert 170 < (ends - time.time()) / 86400 < 181
    canonical = "Canonical: https://keys.example/.well-known/security.txt" in lines
    assert canonical is is_https
