"""The page that waits for the first use of a new key."""

import re
from threading import Event, Thread
from uuid import uuid4

import pytest

from apikeys import key_networks, services, usage
from apikeys.models import APIKey
from tests.factories import FIREFOX, generate_key


def use(key, token, ip: str = "203.0.113.77") -> None:
    services.validate(token.reveal())
    key_networks.used(key.pk, ip)
    usage.flush()


def test_it_is_empty_until_the_key_is_used_and_then_names_time_and_network(
    alice, signed_in, issue, django_assert_max_num_queries
):
    key, token = issue()
    client = signed_in(alice)
    with django_assert_max_num_queries(4):
        waiting = client.get(f"/keys/{key.pk}/first-use")
    assert waiting.json() == {"text": ""}
    assert "no-store" in waiting["Cache-Control"]
    use(key, token)
    text = client.get(f"/keys/{key.pk}/first-use").json()["text"]
    assert re.fullmatch(r"ComfyUI connected, .+ from 203\.0\.113\.0/24", text)


def test_a_client_without_an_ip_has_no_network(alice, signed_in, issue):
    key, token = issue()
    use(key, token, ip="")
    text = signed_in(alice).get(f"/keys/{key.pk}/first-use").json()["text"]
    assert re.fullmatch(r"ComfyUI connected, [^/]+", text)


def test_only_the_owner_may_ask(mallory, signed_in, issue, client):
    key, _token = issue()
    assert client.get(f"/keys/{key.pk}/first-use").status_code == 302
    assert signed_in(mallory).get(f"/keys/{key.pk}/first-use").status_code == 404
    assert client.get(f"/keys/{uuid4()}/first-use").status_code == 404
    assert client.post(f"/keys/{key.pk}/first-use").status_code == 405


def test_a_new_key_comes_with_three_steps_and_its_own_url(alice, signed_in, settings):
    page = generate_key(signed_in(alice)).text
    key = APIKey.objects.get()
    for words in ["Point ComfyUI here", "Paste the key", "Waiting for ComfyUI…"]:
        assert words in page
    assert f"--comfy-api-base {settings.PUBLIC_URL}" in page
    assert page.count(f'data-first-use="/keys/{key.pk}/first-use"') == 1


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (FIREFOX, "run_nvidia_gpu.bat"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)", "Startup Args"),
        ("Mozilla/5.0 (X11; Linux x86_64)", "python main.py"),
    ],
)
def test_the_first_step_is_for_the_system_of_the_browser(alice, signed_in, issue, agent, words):
    issue()
    assert words in signed_in(alice).get("/keys/", headers={"user-agent": agent}).text


def test_the_steps_stay_on_the_page_until_a_key_is_used(alice, signed_in, issue):
    issue("first")
    key, token = issue("second")
    client = signed_in(alice)
    assert f'data-first-use="/keys/{key.pk}/first-use"' in client.get("/keys/").text
    use(key, token)
    assert "data-first-use" not in client.get("/keys/").text


def test_a_new_account_has_the_button_in_the_empty_list(alice, signed_in):
    page = signed_in(alice).get("/keys/").text
    assert "No keys yet" in page
    assert page.count('data-opens="new-key"') == 1
    assert "illustration" in page


@pytest.mark.parametrize(("has_mail_server", "notes"), [(True, 0), (False, 1)])
def test_mail_is_mentioned_where_there_is_none(alice, signed_in, settings, has_mail_server, notes):
    settings.HAS_MAIL_SERVER = has_mail_server
    assert signed_in(alice).get("/keys/").text.count("no mail server") == notes


# --- The writer ----------------------------------------------------------------------------------


def test_the_first_use_of_a_key_is_written_without_waiting_for_the_interval(settings):
    settings.USAGE_FLUSH_INTERVAL = 3600
    is_written, stop = Event(), Event()

    class Writing(usage.UsageCounter):
        def start(self):
            pass

        def flush(self):
            is_written.set()

    counter = Writing()
    writer = Thread(target=counter.run, args=(stop,))
    writer.start()
    key_id = uuid4()
    counter.count(key_id)
    assert not is_written.is_set()
    counter.count(key_id, is_first=True)
    assert is_written.wait(30)
    # Rows that were cached before its first use call each use the first.
    is_written.clear()
    counter.count(key_id, is_first=True)
    assert not is_written.wait(0.5)
    stop.set()
    counter.count(uuid4(), is_first=True)
    writer.join(30)
    assert not writer.is_alive()
