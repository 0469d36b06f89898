"""What people see of the trail: their own, and in words."""

from apikeys import services
from apikeys.models import Reason
from audit.models import Action, Event, Via
from audit.trail import Actor, record
from audit.views import PER_PAGE

ACTIVITY = "/account/activity"


def test_people_see_what_happened_in_words(signed_in, alice, issue):
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


def test_nobody_sees_what_happened_to_somebody_else(signed_in, alice, mallory, issue):
    key, _token = issue("studio")
    assert key.public_id not in signed_in(mallory).get(ACTIVITY).text
    assert Event.objects.filter(account=alice).exists()


def test_staff_are_not_named_to_people(signed_in, alice, sam):
    detail = {"page": "accounts.user"}
    record(Action.STAFF_VIEWED, account_id=alice.pk, by=Actor(sam, Via.ADMIN), detail=detail)
    page = signed_in(alice).get(ACTIVITY).text
    assert "Looked at by staff" in page
    assert sam.email not in page
    assert "accounts.user" not in page


def test_a_long_trail_comes_in_pages_by_few_queries(
    signed_in, alice, django_assert_max_num_queries
):
    for _ in range(PER_PAGE + 1):
        record(Action.SIGNED_OUT, account_id=alice.pk, by=Actor(alice, Via.PAGE))
    client = signed_in(alice)
    with django_assert_max_num_queries(8):
        first = client.get(ACTIVITY)
    assert first.text.count("Signed out") == PER_PAGE
    assert client.get(f"{ACTIVITY}?page=2").text.count("Signed out") == 1


def test_what_was_written_into_a_detail_is_text(signed_in, alice):
    detail = {"url": "<script>alert(1)</script>"}
    record(Action.KEY_LEAKED, account_id=alice.pk, by=Actor(via=Via.LEAK_REPORT), detail=detail)
    page = signed_in(alice).get(ACTIVITY).text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
