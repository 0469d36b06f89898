"""Leak reports to a real platform: keys end at once everywhere, and one e-mail is sent."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.live.conftest import (
    Answer,
    Browser,
    Folder,
    Variables,
    ask,
    at_once,
    join,
    refused_start,
    serving,
    shell,
    until,
    validate,
)
from tests.live.test_mail_leaves import mails_to
from tests.live.test_secrets_stay_in import assert_absent
from tests.mail_server import mail_server
from tests.platforms import Platform
from tests.secret_scanning import Scanner, matches, scanner

GITHUB = "/api/v1/leaks/github"
SERVICE_SECRET = "a-scanners-own-secret-of-32-characters"

# Audit events of reports only; the audit log also has a key's uses.
AUDIT_EVENTS = """
from audit.models import Event
reported = Event.objects.filter(public_id__in=given["keys"], via="leak")
answer = list(reported.order_by("pk").values_list("action", flat=True))
"""


@dataclass(frozen=True)
class Scene:
    running: Platform
    folder: Path
    github: Scanner
    mails: list[bytes] = field(repr=False)

    def report(self, *tokens: str) -> Answer:
        body = matches(*tokens)
        headers = {**self.github.signed(body), "Content-Type": "application/json"}
        return ask(self.running, "POST", GITHUB, headers=headers, body=body)

    def letters(self, email: str) -> list[str]:
        """Return the e-mails about leaked keys; there are others about each new key."""
        sent = mails_to(email.partition("@")[0], self.mails)
        return [letter for letter in sent if "can be read by others" in letter]


@pytest.fixture(scope="module")
def scene(database: Variables, fresh_folder: Folder) -> Iterator[Scene]:
    with ExitStack() as stack:
        github = stack.enter_context(scanner())
        url, mails = stack.enter_context(mail_server())
        folder = fresh_folder()
        running = stack.enter_context(
            serving(
                folder,
                **database,
                EMAIL_URL=url,
                GITHUB_LEAK_REPORTS="1",
                GITHUB_SECRET_SCANNING_KEYS_URL=github.url,
                SERVICE_SECRETS=SERVICE_SECRET,
                LOG_LEVEL="DEBUG",
                WORKERS="2",
            )
        )
        yield Scene(running, folder, github, mails)


def test_a_key_reported_by_github_is_revoked_and_its_owner_notified(scene: Scene) -> None:
    alice = join(scene.running, keys=2)
    leaked, other = alice.keys
    # Every worker has it in its cache.
    assert {validate(scene.running, leaked.token).status for _ in range(20)} == {200}
    answer = scene.report(leaked.token, "nonsense")
    assert answer.status == 200, answer.body
    assert [found["label"] for found in answer.json()] == ["true_positive", "false_positive"]
    seen = [validate(scene.running, leaked.token) for _ in range(20)]
    assert {(answer.status, answer.json()["error"]) for answer in seen} == {(401, "REVOKED")}
    assert validate(scene.running, other.token).status == 200

    assert until(lambda: scene.letters(alice.email))
    (letter,) = scene.letters(alice.email)
    assert "github[.]com/octocat/foo[.]env" in letter
    events = shell(scene.running, AUDIT_EVENTS, keys=[leaked.public_id])
    assert events == ["key.revoked", "key.leaked"]
    is_shown = leaked.secret in answer.body + letter
    assert not is_shown
    assert_absent(leaked.secret, scene.folder)


def test_simultaneous_reports_revoke_a_key_once(scene: Scene) -> None:
    # While GitHub's keys are fetched, few can wait (tests/apikeys/leaks/test_api.py).
    assert scene.report("nonsense").status == 200
    alice = join(scene.running, keys=3)
    (first, *_rest) = alice.keys
    one = matches(first.token)
    all_of_them = matches(*(key.token for key in alice.keys))
    requests = [
        ("POST", GITHUB, {**scene.github.signed(body), "Content-Type": "application/json"}, body)
        for body in (one, all_of_them)
    ]
    sent = [(m, path, headers, body.decode()) for m, path, headers, body in requests]
    answers = at_once(scene.running, sent * 6, sent * 6)
    assert {answer.status for answer in answers} == {200}, [
        answer.body for answer in answers if answer.status != 200
    ]
    labels = {label["label"] for answer in answers for label in answer.json()}
    assert labels == {"true_positive"}
    events = shell(scene.running, AUDIT_EVENTS, keys=[key.public_id for key in alice.keys])
    assert sorted(events) == ["key.leaked"] * 3 + ["key.revoked"] * 3
    assert until(lambda: scene.letters(alice.email))
    # One for the first key and one for the other two, or one for all.
    assert len(scene.letters(alice.email)) <= 2
    assert until(lambda: pending_emails(scene) == 0)
    assert len(scene.letters(alice.email)) <= 2


def pending_emails(scene: Scene) -> int:
    count: int = shell(
        scene.running, "from outbox.models import Mail\nanswer = Mail.objects.count()"
    )
    return count


def test_a_service_and_a_person_can_report(scene: Scene) -> None:
    alice = join(scene.running, keys=2)
    by_service, by_person = alice.keys
    answer = ask(
        scene.running,
        "POST",
        "/api/v1/leaks",
        headers={"Authorization": f"Bearer {SERVICE_SECRET}"},
        body={"leaks": [{"key": by_service.token, "url": "https://paste.example/1"}]},
    )
    assert (answer.status, answer.json()) == (200, {"leaks": [{"label": "true_positive"}]})
    finder = Browser(scene.running)
    page = finder.post(
        "/leaks",
        **finder.hidden("/leaks"),
        key=by_person.token,
        url=f"https://video.example/?at={by_person.token}",
    )
    assert page.status_code == 200
    assert "It was an API key of this site" in page.text
    for key in alice.keys:
        assert validate(scene.running, key.token).status == 401
        is_shown = key.secret in answer.body + page.text
        assert not is_shown
        assert_absent(key.secret, scene.folder)
    assert until(lambda: len(scene.letters(alice.email)) == 2)


def test_a_report_without_a_valid_signature_is_refused_without_fetching(scene: Scene) -> None:
    alice = join(scene.running, keys=1)
    (key,) = alice.keys
    body = matches(key.token)
    good = scene.github.signed(body)
    asked = scene.github.asked
    for number in range(20):
        headers = {
            **good,
            "Github-Public-Key-Identifier": f"{number:064x}",
            "Content-Type": "application/json",
        }
        # Workers share the fetched keys by the cache.
        assert ask(scene.running, "POST", GITHUB, headers=headers, body=body).status in {403, 503}
    assert scene.github.asked <= asked + 1
    assert validate(scene.running, key.token).status == 200


def test_a_body_that_is_too_large_is_refused(scene: Scene) -> None:
    body = b"[" + b" " * (1024 * 1024) + b"]"
    headers = {**scene.github.signed(body), "Content-Type": "application/json"}
    answer = ask(scene.running, "POST", GITHUB, headers=headers, body=body)
    assert (answer.status, answer.json()["error"]) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"LEAKED_KEYS": "ignore"}, "LEAKED_KEYS"),
        (
            {"GITHUB_SECRET_SCANNING_KEYS_URL": "http://github.example/keys"},
            "GITHUB_SECRET_SCANNING_KEYS_URL",
        ),
        ({"SECURITY_CONTACT": "the night watch"}, "SECURITY_CONTACT"),
    ],
)
def test_an_invalid_setting_is_named_at_the_start(
    tmp_path: Path, variables: Variables, named: str
) -> None:
    ended = refused_start(VAR_DIR=str(tmp_path), **variables)
    assert ended.returncode != 0
    assert f"  {named}: " in ended.stderr


def test_a_key_is_suspended_if_the_setting_says_so(fresh_folder: Folder) -> None:
    with (
        scanner() as github,
        serving(
            fresh_folder(),
            LEAKED_KEYS="suspend",
            GITHUB_LEAK_REPORTS="1",
            GITHUB_SECRET_SCANNING_KEYS_URL=github.url,
            SECURITY_CONTACT="security@keys.example",
        ) as running,
    ):
        (key,) = join(running, keys=1).keys
        scene = Scene(running, Path(), github, [])
        assert scene.report(key.token).json()[0]["label"] == "true_positive"
        assert validate(running, key.token).json()["error"] == "SUSPENDED"
        security_txt = ask(running, "GET", "/.well-known/security.txt")
        assert security_txt.body.startswith("Contact: mailto:security@keys.example\nExpires: ")
        printed = running.printed()
    assert "[.]com/octocat" in printed
    is_printed = key.secret in printed
    assert not is_printed
