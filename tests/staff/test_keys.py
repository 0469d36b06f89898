"""Staff suspend keys and give them back: one, or many, after a page that asks."""

from html import unescape

import pytest
from django.contrib import messages
from django.contrib.messages import get_messages
from django.test import Client
from django.utils import timezone

from apikeys import services
from apikeys.models import APIKey, KeyNetwork, Reason
from apikeys.services import Code
from audit.models import Action, Event, Via
from audit.trail import Actor

KEYS = "/admin/apikeys/apikey/"


def page_of(key: APIKey, what: str = "change") -> str:
    return f"{KEYS}{key.pk}/{what}/"


def told(response) -> list[tuple[int, str]]:
    return [(message.level, str(message)) for message in get_messages(response.wsgi_request)]


def found(response) -> set[str]:
    return {key.name for key in response.context["cl"].result_list}


@pytest.fixture
def staff(open_as, security) -> Client:
    return open_as(security)


def test_a_key_is_suspended_and_given_back_and_its_owner_is_told(
    staff, security, alice, issue, mailoutbox
):
    key, token = issue("studio")
    mailoutbox.clear()
    assert page_of(key, "suspend") in staff.get(page_of(key)).text
    asked = staff.get(page_of(key, "suspend"))
    assert key.masked in asked.text
    assert services.validate(token.reveal()).code is Code.VALID, "a page that asks changes nothing"

    answer = staff.post(page_of(key, "suspend"))
    assert answer["Location"] == page_of(key)
    assert told(answer) == [(messages.SUCCESS, "1 key was suspended. Its owner is told.")]
    assert services.validate(token.reveal()).code is Code.SUSPENDED
    shown = staff.get(page_of(key)).text
    assert page_of(key, "restore") in shown
    assert page_of(key, "suspend") not in shown

    staff.post(page_of(key, "restore"))
    assert services.validate(token.reveal()).code is Code.VALID
    for action in (Action.KEY_SUSPENDED, Action.KEY_RESTORED):
        event = Event.objects.get(action=action)
        assert (event.actor, event.account, event.key_id) == (security, alice, key.pk)
        assert event.via == Via.ADMIN
    assert [mail.subject for mail in mailoutbox] == [
        "Your key “studio” was suspended",
        "Your key “studio” works again",
    ]


def test_many_keys_are_suspended_and_given_back_after_a_page_that_asks(staff, issue, mallory):
    issued = [issue("studio"), issue("laptop"), issue("phone", owner=mallory)]
    over, _token = issue("over")
    services.revoke(over, reason=Reason.DELETED_BY_OWNER)
    chosen = [key.pk for key, _token in issued] + [over.pk]
    for action, code in (("suspend", Code.SUSPENDED), ("restore", Code.VALID)):
        body = {"action": f"{action}_selected", "_selected_action": chosen}
        asked = staff.post(KEYS, body)
        assert asked.status_code == 200
        assert over.masked not in asked.text
        answer = staff.post(KEYS, {**body, "confirmed": "1"})
        assert told(answer)[-1][1].startswith("3 keys")
        assert {services.validate(token.reveal()).code for _key, token in issued} == {code}
    assert Event.objects.filter(action=Action.KEY_SUSPENDED).count() == 3


@pytest.mark.parametrize("deed", ["suspend", "restore"])
def test_what_is_so_already_is_neither_offered_nor_done_again(staff, issue, deed, mailoutbox):
    key, _token = issue("studio")
    if deed == "suspend":
        staff.post(page_of(key, "suspend"))
    mailoutbox.clear()
    before = Event.objects.exclude(action=Action.STAFF_VIEWED).count()
    asked = staff.get(page_of(key, deed)).text
    assert f"there is nothing to {deed}" in asked
    answer = staff.post(page_of(key, deed))
    assert [level for level, _words in told(answer)][-1] == messages.WARNING
    assert Event.objects.exclude(action=Action.STAFF_VIEWED).count() == before
    assert mailoutbox == []


def test_a_key_that_has_ended_is_not_suspended(staff, issue):
    key, _token = issue("studio")
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    staff.post(page_of(key, "suspend"))
    key.refresh_from_db()
    assert (key.suspended_at, key.revoked_reason) == (None, Reason.DELETED_BY_OWNER)


def test_staff_pick_the_suspended_ones_and_see_that_they_are(staff, security, issue):
    key, _token = issue("studio")
    issue("laptop")
    over, _token = issue("over")
    for one in (key, over):
        services.suspend(one, by=Actor(security, Via.ADMIN))
    services.revoke(over, reason=Reason.LEAKED)
    picked = staff.get(KEYS, {"state": "suspended"})
    assert found(picked) == {"studio"}
    assert '<td class="field-state">suspended</td>' in picked.text
    assert found(staff.get(KEYS, {"state": "live"})) == {"laptop"}


def test_whoever_comes_from_the_account_goes_back_there(staff, alice, issue):
    key, _token = issue("studio")
    account = f"/admin/accounts/user/{alice.pk}/overview/"
    shown = unescape(staff.get(account).text)
    for deed in ("suspend", "restore", "revoke"):
        link = f"{page_of(key, deed)}?from=account"
        assert link in unescape(staff.get(account).text)
        assert f'href="{account}"' in staff.get(link).text, "the way back"
        assert staff.post(link)["Location"] == account
    assert "revoke/" in shown
    assert "revoke/" not in staff.get(account).text


def test_the_page_of_a_key_tells_where_it_was_used_and_leads_to_its_events(staff, issue):
    key, _token = issue("studio")
    issue("laptop")
    KeyNetwork.objects.create(key=key, network="192.0.2.0/24", first_used_at=timezone.now())
    shown = unescape(staff.get(page_of(key)).text)
    assert "192.0.2.0/24" in shown
    link = f"/admin/audit/event/?key_id__exact={key.pk}"
    assert link in shown
    assert {event.key_id for event in staff.get(link).context["cl"].result_list} == {key.pk}
