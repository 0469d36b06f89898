"""Users of a ComfyUI with --multi-user: one per account, created when it is first needed."""

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from sites import comfyui_users
from sites.models import ComfyUIUser
from tests.gateways.comfyui import ComfyUI, comfyui_with_users
from tests.live.comfy_keys.conftest import fixed_server, http_answer
from tests.platforms import free_port
from tests.sites.conftest import COOKIE, NAVIGATION, ORIGIN


@pytest.fixture
def comfyui() -> Iterator[ComfyUI]:
    with comfyui_with_users() as started:
        yield started


@pytest.fixture
def separate(site, comfyui):
    site.comfyui_url = f"http://127.0.0.1:{comfyui.port}"
    site.save()
    return site


def test_each_account_gets_one_user(separate, comfyui, enter, alice, mallory):
    answers = []
    for user in (alice, mallory):
        browsing = enter(user)
        browsing.sign_in()
        answers += [browsing.ask()["Comfy-User"] for _time in range(2)]
    assert answers[0] == answers[1] != answers[2] == answers[3]
    assert comfyui.users == {answers[0]: str(alice.pk), answers[2]: str(mallory.pk)}


def test_a_key_gets_the_same_user(separate, comfyui, client, at_site, issue):
    answer = client.get(
        "/api/v1/auth", {"site": at_site.name}, headers={"X-API-Key": issue()[1].reveal()}
    )
    assert answer["Comfy-User"] == at_site.ask()["Comfy-User"]
    assert len(comfyui.users) == 1


def test_comfyui_is_asked_once(separate, comfyui, at_site):
    at_site.ask()
    before = len(comfyui.seen)
    at_site.ask()
    assert len(comfyui.seen) == before


def test_after_a_new_user_folder_the_next_log_in_creates_the_user_again(separate, comfyui, at_site):
    before = at_site.ask()["Comfy-User"]
    comfyui.users.clear()
    del at_site.cookies[COOKIE]
    at_site.sign_in()
    after = at_site.ask()["Comfy-User"]
    assert before != after
    assert list(comfyui.users) == [after]


def test_a_user_that_a_concurrent_request_created_is_found(separate, comfyui, alice, monkeypatch):
    find = comfyui_users._find
    answers = [None]
    monkeypatch.setattr(
        comfyui_users, "_find", lambda *given: answers.pop() if answers else find(*given)
    )
    comfyui.users["theirs"] = str(alice.pk)
    assert comfyui_users.user_id(separate, alice) == "theirs"


@pytest.mark.parametrize("kind", [NAVIGATION, {}])
def test_an_unreachable_comfyui_is_503_and_nothing_is_made(site, enter, alice, kind):
    site.comfyui_url = f"http://127.0.0.1:{free_port()}"
    site.save()
    browsing = enter(alice)
    assert browsing.sign_in() == f"{ORIGIN}/"
    answer = browsing.ask(kind=kind)
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert answer.json()["error"] == "SERVICE_UNAVAILABLE"
    assert not ComfyUIUser.objects.exists()


@pytest.mark.parametrize(
    "answered",
    [
        {"storage": "server", "migrated": True},
        {"users": []},
        {"users": {"a\r\nX-Evil: 1": "NAME"}},
        {"users": {"": "NAME"}},
        [],
    ],
)
def test_an_odd_answer_is_503(separate, comfyui, at_site, alice, monkeypatch, answered):
    """A ComfyUI without --multi-user has no list of users."""
    text = json.dumps(answered).replace("NAME", str(alice.pk))
    monkeypatch.setattr(comfyui_users, "_call", lambda *_given: json.loads(text))
    ComfyUIUser.objects.all().delete()
    assert at_site.ask().status_code == 503


def test_a_redirect_is_not_followed(site, at_site, alice):
    users = json.dumps({"users": {"others": str(alice.pk)}}).encode()
    with (
        fixed_server(http_answer("200 OK", users)) as elsewhere,
        fixed_server(http_answer("302 Found", Location=f"{elsewhere.url}/users")) as comfyui,
    ):
        site.comfyui_url = comfyui.url
        site.save()
        assert at_site.ask().status_code == 503
        assert comfyui.requests
        assert elsewhere.requests == []


def test_a_hanging_comfyui_does_not_hold_all_connections(separate, at_site, alice):
    ComfyUIUser.objects.all().delete()
    with ExitStack() as stack:
        for _request in range(8):
            stack.enter_context(comfyui_users._waiting)
        assert at_site.ask().status_code == 503
    assert at_site.ask().status_code == 204


def test_the_page_of_comfyui_learns_of_no_users(separate, comfyui, client):
    answer = client.get("/sites/at/comfy.example.com/users")
    assert answer.json() == {"storage": "server", "migrated": True}
    assert client.post("/sites/at/comfy.example.com/users").status_code == 405
    assert client.get("/sites/at/other.example.com/users").status_code == 404
