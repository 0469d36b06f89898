"""Staff suspend and restore one or many keys, after a confirmation."""

from html import unescape

import pytest
from django.contrib import messages
from django.utils import timezone

from apikeys import services
from apikeys.models import KeyNetwork, Reason
from apikeys.services import VerdictCode
from audit.models import Action, Event, Via
from audit.services import Actor
from tests.factories import admin_url, listed_names, shown_messages

KEYS = "/admin/apikeys/apikey/"


def test_suspending_and_restoring_a_key_notifies_its_owner(
    security_browser, security, alice, issue, mailoutbox
):
    key, token = issue("studio")
    mailoutbox.clear()
    assert admin_url(key, "suspend") in security_browser.get(admin_url(key)).text
    asked = security_browser.get(admin_url(key, "suspend"))
    assert key.masked in asked.text
    assert services.validate(token.reveal()).code is VerdictCode.VALID, (
        "a page that asks changes nothing"
    )

    response = security_browser.post(admin_url(key, "suspend"))
    assert response["Location"] == admin_url(key)
    assert shown_messages(response) == [
        (messages.SUCCESS, "1 key was suspended. Its owner is notified.")
    ]
    assert services.validate(token.reveal()).code is VerdictCode.SUSPENDED
    shown = security_browser.get(admin_url(key)).text
    assert admin_url(key, "restore") in shown
    assert admin_url(key, "suspend") not in shown

    security_browser.post(admin_url(key, "restore"))
    assert services.validate(token.reveal()).code is VerdictCode.VALID
    for action in (Action.KEY_SUSPENDED, Action.KEY_RESTORED):
        event = Event.objects.get(action=action)
        assert (event.actor, event.account, event.key_id) == (security, alice, key.pk)
        assert event.via == Via.ADMIN
    assert [mail.subject for mail in mailoutbox] == [
        "Your key “studio” was suspended",
        "Your key “studio” works again",
    ]


def test_many_keys_are_suspended_and_restored_after_a_confirmation(
    security_browser, issue, mallory
):
    issued = [issue("studio"), issue("laptop"), issue("phone", owner=mallory)]
    over, _token = issue("over")
    services.revoke(over, reason=Reason.DELETED_BY_OWNER)
    chosen = [key.pk for key, _token in issued] + [over.pk]
    for action, code in (("suspend", VerdictCode.SUSPENDED), ("restore", VerdictCode.VALID)):
        body = {"action": f"{action}_selected", "_selected_action": chosen}
        asked = security_browser.post(KEYS, body)
        assert asked.status_code == 200
        assert over.masked not in asked.text
        response = security_browser.post(KEYS, {**body, "confirmed": "1"})
        assert shown_messages(response)[-1][1].startswith("3 keys")
        assert {services.validate(token.reveal()).code for _key, token in issued} == {code}
    assert Event.objects.filter(action=Action.KEY_SUSPENDED).count() == 3


@pytest.mark.parametrize("action_name", ["suspend", "restore"])
def test_an_action_without_effect_is_neither_offered_nor_applied(
    security_browser, issue, action_name, mailoutbox
):
    key, _token = issue("studio")
    if action_name == "suspend":
        security_browser.post(admin_url(key, "suspend"))
    mailoutbox.clear()
    before = Event.objects.exclude(action=Action.STAFF_VIEWED).count()
    asked = security_browser.get(admin_url(key, action_name)).text
    assert f"there is nothing to {action_name}" in asked
    response = security_browser.post(admin_url(key, action_name))
    assert [level for level, _words in shown_messages(response)][-1] == messages.WARNING
    assert Event.objects.exclude(action=Action.STAFF_VIEWED).count() == before
    assert mailoutbox == []


def test_a_revoked_key_is_not_suspended(security_browser, issue):
    key, _token = issue("studio")
    services.revoke(key, reason=Reason.DELETED_BY_OWNER)
    security_browser.post(admin_url(key, "suspend"))
    key.refresh_from_db()
    assert (key.suspended_at, key.revoked_reason) == (None, Reason.DELETED_BY_OWNER)


def test_staff_can_filter_for_suspended_keys(security_browser, security, issue):
    key, _token = issue("studio")
    issue("laptop")
    over, _token = issue("over")
    for one in (key, over):
        services.suspend(one, by=Actor(security, Via.ADMIN))
    services.revoke(over, reason=Reason.LEAKED)
    picked = security_browser.get(KEYS, {"state": "suspended"})
    assert listed_names(picked) == {"studio"}
    assert '<span class="state suspended">suspended</span>' in picked.text
    assert listed_names(security_browser.get(KEYS, {"state": "live"})) == {"laptop"}


def test_an_action_started_on_the_overview_redirects_back_there(security_browser, alice, issue):
    key, _token = issue("studio")
    account = f"/admin/accounts/user/{alice.pk}/overview/"
    shown = unescape(security_browser.get(account).text)
    for action in ("suspend", "restore", "revoke"):
        link = f"{admin_url(key, action)}?from=account"
        assert link in unescape(security_browser.get(account).text)
        assert f'href="{account}"' in security_browser.get(link).text, "the way back"
        assert security_browser.post(link)["Location"] == account
    assert "revoke/" in shown
    assert "revoke/" not in security_browser.get(account).text


def test_the_page_of_a_key_shows_its_networks_and_links_to_its_events(security_browser, issue):
    key, _token = issue("studio")
    issue("laptop")
    KeyNetwork.objects.create(key=key, network="192.0.2.0/24", first_used_at=timezone.now())
    shown = unescape(security_browser.get(admin_url(key)).text)
    assert "192.0.2.0/24" in shown
    link = f"/admin/audit/event/?key_id__exact={key.pk}"
    assert link in shown
    assert {event.key_id for event in security_browser.get(link).context["cl"].result_list} == {
        key.pk
    }
