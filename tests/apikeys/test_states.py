"""The state of a key: the same first reason in a validation, on pages, for staff and in a shell."""

from datetime import timedelta

import pytest
from django.utils import timezone

from apikeys import services
from apikeys.models import APIKey, Reason
from apikeys.owner_state import OwnerState, owner_state
from apikeys.state_badge import state_badge
from apikeys.verdict_codes import VerdictCode
from tests.factories import run_command

pytestmark = pytest.mark.django_db
PAST = timezone.now() - timedelta(days=1)
DELETED = {"revoked_at": PAST, "revoked_reason": Reason.DELETED_BY_OWNER}
SUSPENDED = {"suspended_at": PAST}
EXPIRED = {"expires_at": PAST}


@pytest.mark.parametrize(
    ("changes", "is_disabled", "code", "on_pages", "badge"),
    [
        ({}, False, VerdictCode.VALID, OwnerState.ACTIVE, "live"),
        (EXPIRED, False, VerdictCode.EXPIRED, OwnerState.EXPIRED, "expired"),
        (EXPIRED, True, VerdictCode.ACCOUNT_DISABLED, OwnerState.EXPIRED, "account disabled"),
        ({**SUSPENDED, **EXPIRED}, False, VerdictCode.SUSPENDED, OwnerState.SUSPENDED, "suspended"),
        (SUSPENDED, True, VerdictCode.SUSPENDED, OwnerState.SUSPENDED, "suspended"),
        (
            {**DELETED, **SUSPENDED, **EXPIRED},
            True,
            VerdictCode.REVOKED,
            OwnerState.DELETED,
            "deleted by its owner",
        ),
    ],
)
def test_the_first_reason_is_the_same_everywhere(
    alice, issue, changes, is_disabled, code, on_pages, badge
):
    key, token = issue("studio")
    APIKey.objects.filter(pk=key.pk).update(**changes)
    alice.is_active = not is_disabled
    alice.save()
    stored = APIKey.objects.get()
    assert services.validate(token.reveal()).code is code
    assert owner_state(stored) is on_pages
    assert f">{badge}<" in state_badge(stored)
    word = "live" if code is VerdictCode.VALID else code.lower()
    assert f"  {word} " in run_command("list_keys", alice.email)


def test_the_list_and_the_page_of_a_key_show_the_same_state(alice, issue, signed_in):
    key, _token = issue("studio")
    APIKey.objects.filter(pk=key.pk).update(**SUSPENDED, **EXPIRED)
    here = signed_in(alice)
    assert '<span class="state suspended">' in here.get("/keys/").text
    page = here.get(f"/keys/{key.pk}/").text
    assert '<p class="key-status suspended">Suspended</p>' in page
    assert "This key was suspended on" in page
    assert "This key expired on" in page
    assert "Create a new key" in page
