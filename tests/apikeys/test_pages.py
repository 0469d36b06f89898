"""The pages of keys, without scripts."""

import re
from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from apikeys import services
from apikeys.models import APIKey, Reason
from apikeys.services import VerdictCode
from tests.factories import generate_key

TOKEN = re.compile(r"comfyui-[0-9a-f]{64}")


def test_alice_generates_a_key_and_sees_it_once(alice, signed_in):
    client = signed_in(alice)
    response = generate_key(client, description="the render box")
    assert response.status_code == 200
    (plaintext,) = TOKEN.findall(response.text)
    assert services.validate(plaintext).key.name == "studio"
    assert "will only be shown once" in response.text
    assert "no-store" in response["Cache-Control"]
    page = client.get("/keys/")
    assert plaintext not in page.text
    assert f"{plaintext[:20]}…" in page.text
    assert "the render box" in page.text


def test_the_page_has_the_words_that_comfyuis_documentation_teaches(alice, signed_in, issue):
    issue("studio")
    page = signed_in(alice).get("/keys/?new=1").text
    for words in ["+ New", "API Key name", "Generate", "Delete", "Log out", "API Keys", "Usage"]:
        assert words in page


def test_the_plaintext_is_not_in_the_session_nor_in_a_message(alice, signed_in):
    client = signed_in(alice)
    (plaintext,) = TOKEN.findall(generate_key(client).text)
    assert plaintext[20:] not in str(dict(client.session.items()))


def test_the_same_form_again_makes_no_second_key_and_shows_no_secret(alice, signed_in):
    client = signed_in(alice)
    nonce = uuid4()
    (plaintext,) = TOKEN.findall(generate_key(client, nonce=nonce).text)
    again = generate_key(client, nonce=nonce)
    assert again.status_code == 409
    assert not TOKEN.search(again.text)
    assert "has already created its key" in again.text
    assert APIKey.objects.count() == 1
    assert services.validate(plaintext).code is VerdictCode.VALID


def test_the_same_form_after_the_key_was_deleted_makes_none_either(alice, signed_in):
    client = signed_in(alice)
    nonce = uuid4()
    generate_key(client, nonce=nonce)
    services.revoke(APIKey.objects.get(), reason=Reason.DELETED_BY_OWNER)
    again = generate_key(client, nonce=nonce)
    assert again.status_code == 409
    assert "has been deleted since" in again.text
    assert APIKey.objects.count() == 1


def test_a_refused_form_keeps_what_was_written_and_says_what_to_do(alice, signed_in, issue):
    issue("studio")
    response = generate_key(signed_in(alice), "STUDIO", description="keep me")
    assert response.status_code == 400
    assert "Choose another name" in response.text
    assert 'value="STUDIO"' in response.text
    assert 'value="keep me"' in response.text
    assert re.search(r'<dialog id="new-key"[^>]* open', response.text)


def test_a_refused_form_can_be_sent_again_as_it_stands(alice, signed_in):
    client = signed_in(alice)
    refused = generate_key(client, "")
    (nonce,) = re.findall(r'name="nonce" value="([^"]+)"', refused.text)
    assert TOKEN.search(generate_key(client, "better", nonce=nonce).text)


@pytest.mark.parametrize("nonce", ["", "not-a-uuid"])
def test_a_form_without_its_nonce_gets_a_new_one_and_makes_nothing(alice, signed_in, nonce):
    client = signed_in(alice)
    response = generate_key(client, "studio", nonce=nonce)
    assert response.status_code == 400
    assert "Press the button again" in response.text
    assert not APIKey.objects.exists()
    (fresh,) = re.findall(r'name="nonce" value="([^"]+)"', response.text)
    assert TOKEN.search(generate_key(client, "studio", nonce=fresh).text)


def test_a_name_shows_as_text_never_as_markup(alice, signed_in, issue):
    issue("<script>alert(1)</script>")
    page = signed_in(alice).get("/keys/").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_delete_asks_naming_the_key_and_then_ends_it(alice, signed_in, issue):
    key, token = issue("studio")
    client = signed_in(alice)
    confirmation = client.get(f"/keys/{key.pk}/delete")
    assert "Delete “studio”?" in confirmation.text
    assert services.validate(token.reveal()).code is VerdictCode.VALID
    done = client.post(f"/keys/{key.pk}/delete", follow=True)
    assert services.validate(token.reveal()).code is VerdictCode.REVOKED
    assert "“studio” was deleted" in done.text
    assert key.masked not in done.text


def test_deleting_twice_is_404_and_changes_nothing(alice, signed_in, issue):
    key, _token = issue()
    client = signed_in(alice)
    client.post(f"/keys/{key.pk}/delete")
    at = APIKey.objects.get().revoked_at
    assert client.post(f"/keys/{key.pk}/delete").status_code == 404
    assert client.get(f"/keys/{key.pk}/delete").status_code == 404
    assert APIKey.objects.get().revoked_at == at


def test_mallory_cannot_delete_alices_key(mallory, signed_in, issue):
    key, token = issue()
    client = signed_in(mallory)
    assert client.get(f"/keys/{key.pk}/delete").status_code == 404
    assert client.post(f"/keys/{key.pk}/delete").status_code == 404
    assert services.validate(token.reveal()).code is VerdictCode.VALID


def test_an_owner_named_in_the_form_is_ignored(alice, mallory, signed_in):
    generate_key(signed_in(mallory), owner=str(alice.pk), owner_id=str(alice.pk))
    assert APIKey.objects.get().owner == mallory


def test_without_a_csrf_token_nothing_is_made_and_the_page_says_why(alice, issue):
    from django.test import Client

    key, _token = issue()
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    refused = generate_key(client)
    assert refused.status_code == 403
    assert "reload the page" in refused.text
    assert client.post(f"/keys/{key.pk}/delete").status_code == 403
    assert APIKey.objects.kept().count() == 1


def test_the_empty_state_shows_the_way(alice, signed_in):
    page = signed_in(alice).get("/keys/").text
    assert "No keys yet" in page
    assert "+ New" in page


def test_keys_are_listed_newest_first_in_pages_and_can_be_searched(alice, signed_in, issue):
    for number in range(25):
        issue(f"key {number:02}", description="odd" if number % 2 else "")
    client = signed_in(alice)
    first = client.get("/keys/").context["page"]
    assert [key.name for key in first][:2] == ["key 24", "key 23"]
    assert len(first) == 20
    assert [key.name for key in client.get("/keys/?page=2").context["page"]][-1] == "key 00"
    assert {key.name for key in client.get("/keys/?q=KEY 07").context["page"]} == {"key 07"}
    assert client.get("/keys/?q=odd").context["page"].paginator.count == 12
    newest = APIKey.objects.first()
    for shown in [newest.public_id[:6], newest.masked.rstrip("…")]:
        assert newest in client.get("/keys/", {"q": shown}).context["page"]
    assert "No key matches" in client.get("/keys/?q=nothing-like-it").text


@pytest.mark.parametrize("page", ["0", "-1", "999", "x", "\x00"])
def test_a_page_that_is_not_there_is_answered_with_one_that_is(alice, signed_in, issue, page):
    issue()
    assert signed_in(alice).get("/keys/", {"page": page}).status_code == 200


@pytest.mark.parametrize("words", ["\x00", "%", "_", "'; DROP", "\ud800"[:0] or "é" * 500])
def test_any_search_is_answered(alice, signed_in, issue, words):
    issue()
    assert signed_in(alice).get("/keys/", {"q": words}).status_code == 200


def test_the_list_runs_a_bounded_number_of_queries(
    alice, signed_in, issue, django_assert_max_num_queries
):
    for number in range(20):
        key, _token = issue(f"key {number}")
    services.rotate(key, overlap=timedelta(days=1))
    client = signed_in(alice)
    with django_assert_max_num_queries(9):
        client.get("/keys/")


def test_times_are_relative_with_the_exact_one_on_hover(alice, signed_in, issue):
    _key, _token = issue()
    APIKey.objects.update(created_at=timezone.now() - timedelta(hours=3))
    page = signed_in(alice).get("/keys/").text
    assert "3 hours ago" in page.replace("\xa0", " ")
    assert re.search(r'<time datetime="[^"]+" title="\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC">', page)


def test_an_expired_key_is_marked(alice, signed_in, issue):
    issue(expires_at=timezone.now() - timedelta(days=1))
    assert "Expired" in signed_in(alice).get("/keys/").text


def test_an_unverified_email_creates_no_key_with_a_mail_server(alice, signed_in, settings):
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    response = generate_key(signed_in(alice))
    assert (response.status_code, response.url) == (302, "/account/email")
    assert not APIKey.objects.exists()


def test_a_redirect_after_login_leads_to_the_form(alice, signed_in, client):
    assert client.post("/keys/generate").url == "/login?next=/keys/generate"
    assert signed_in(alice).get("/keys/generate").url == "/keys/?new=1"
