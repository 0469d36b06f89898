"""The activity page: the events of one's own account, with translated details."""

from apikeys import services
from apikeys.models import Reason
from audit.models import Action, Event, Via
from audit.services import Actor, record
from audit.views import PER_PAGE

ACTIVITY = "/account/activity"


def test_users_see_their_events_with_translated_details(signed_in, alice, issue):
    key, _token = issue("studio")
    services.revoke(key, reason=Reason.DELETED_BY_OWNER, by=Actor(alice, Via.PAGE, "192.0.2.7"))
    detail = {"how": "password + totp", "device": "Firefox on Windows"}
    record(Action.SIGNED_IN, account_id=alice.pk, by=Actor(alice, Via.PAGE), detail=detail)
    page = signed_in(alice).get(ACTIVITY).text
    for words in [
        "password, authenticator app",
        "Firefox on Windows",
        f"comfyui-{key.public_id}…",
        "From 192.0.2.7.",
        "deleted by its owner",
    ]:
        assert words in page


def test_users_do_not_see_events_of_other_accounts(signed_in, alice, mallory, issue):
    key, _token = issue("studio")
    assert key.public_id not in signed_in(mallory).get(ACTIVITY).text
    assert Event.objects.filter(account=alice).exists()


def test_users_do_not_see_names_of_staff(signed_in, alice, sam):
    detail = {"page": "accounts.user"}
    record(Action.STAFF_VIEWED, account_id=alice.pk, by=Actor(sam, Via.ADMIN), detail=detail)
    page = signed_in(alice).get(ACTIVITY).text
    assert "Viewed by staff" in page
    assert sam.email not in page
    assert "accounts.user" not in page


def test_many_events_are_paginated_with_few_queries(
    signed_in, alice, django_assert_max_num_queries
):
    for _ in range(PER_PAGE + 1):
        record(Action.SIGNED_OUT, account_id=alice.pk, by=Actor(alice, Via.PAGE))
    client = signed_in(alice)
    with django_assert_max_num_queries(8):
        first = client.get(ACTIVITY)
    assert first.text.count("Logged out") == PER_PAGE
    assert client.get(f"{ACTIVITY}?page=2").text.count("Logged out") == 1


def test_details_are_escaped(signed_in, alice):
    detail = {"url": "<script>alert(1)</script>"}
    record(Action.KEY_LEAKED, account_id=alice.pk, by=Actor(via=Via.LEAK_REPORT), detail=detail)
    page = signed_in(alice).get(ACTIVITY).text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
