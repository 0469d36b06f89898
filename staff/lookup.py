"""Whose is this? Somebody sent what looks like a key; staff paste it, and learn what it is.

Nothing of it is kept: it comes in by POST, is judged, and is in no page, log line, session or row.
The answer is this one page, and the event names the public id of a key that there is.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from django import forms
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods
from django_stubs_ext import StrPromise

from apikeys import deeds, services, tokens, words
from apikeys.hashing import Busy
from apikeys.models import APIKey
from apikeys.tokens import Flaw, Refusal
from audit.models import Action, Via
from audit.trail import actor, record
from config.errors import RETRY_AFTER
from staff.pages import page, require

# As lists and logs show a key; its digits alone will do.
_VISIBLE: Final = re.compile(r"(?:comfyui-)?([0-9a-f]{12})(?:…|\.\.\.)?")


class Finding(StrEnum):
    """What the text is."""

    PROVED = "proved"
    VISIBLE_PART = "visible part"
    MADE_UP = "made up"
    UNKNOWN = "unknown"
    UNKNOWN_PART = "unknown part"
    FORGED = "not of this platform"
    MALFORMED = "malformed"


_WORDS: Final = {
    Finding.PROVED: _("This is a key of this platform, whole: whoever has it can use it."),
    Finding.VISIBLE_PART: _(
        "This is the visible part of a key. By itself it opens nothing: whether somebody has the "
        "rest, it does not tell."
    ),
    Finding.MADE_UP: _(
        "The visible part is that of the key below, and the rest is not: it is made up, or a "
        "backup was restored since. It opens nothing."
    ),
    Finding.UNKNOWN: _(
        "This was made by this platform, and there is no such key any more: its account was "
        "deleted, or a backup from before it was restored. It opens nothing."
    ),
    Finding.UNKNOWN_PART: _("No key of this platform begins so, now."),
    Finding.FORGED: _(
        "This has the shape of a key, and this platform has not made it: it is another "
        "platform's, such as platform.comfy.org's, or invented. It opens nothing here."
    ),
}
_FLAWS: Final = {
    Flaw.PREFIX: _("This is no key: those begin with comfyui-."),
    Flaw.LENGTH: _("This is no whole key: those have 72 characters. A part is missing, or added."),
    Flaw.DIGITS: _(
        "This is no key: after comfyui- there are only the digits 0 to 9 and the small letters a "
        "to f."
    ),
    Flaw.CHECKSUM: _(
        "This has a typo: its checksum does not fit. At least one character is wrong."
    ),
}


@dataclass(frozen=True, slots=True)
class Found:
    finding: Finding
    words: StrPromise
    key: APIKey | None = None


class LookupForm(forms.Form):
    # Never in the page that answers: a widget for passwords shows no value.
    token = forms.CharField(
        label=_("What you were sent"),
        max_length=4096,
        widget=forms.PasswordInput(
            attrs={
                "class": "vTextField",
                "autocomplete": "off",
                "spellcheck": "false",
                "data-forgets": True,
            }
        ),
        help_text=_(
            "A whole key, or the part of it that lists and logs show. It is checked and forgotten: "
            "not stored, not shown, not written down."
        ),
    )


@sensitive_variables()
@sensitive_post_parameters("token")
@require_http_methods(["GET", "HEAD", "POST"])
def whose(request: HttpRequest) -> HttpResponse:
    require(request, "apikeys.view_apikey")
    if request.method != "POST":
        return _page(request, LookupForm())
    form = LookupForm(request.POST)
    if not form.is_valid():
        return _page(request, form, status=400)
    try:
        found = _judge(form.cleaned_data["token"])
    except Busy:
        form.add_error(None, _("This can't be checked just now. Try again shortly."))
        response = _page(request, form, status=503)
        response["Retry-After"] = str(RETRY_AFTER)
        return response
    # Before anything is shown: where this can't be written down, nothing is.
    record(
        Action.STAFF_LOOKED_UP,
        account_id=None if found.key is None else found.key.owner_id,
        key=found.key,
        by=actor(request, via=Via.ADMIN),
        detail={"found": found.finding},
    )
    return _page(request, LookupForm(), found=found)


@sensitive_variables()
def _judge(text: str) -> Found:
    text = text.strip()
    if visible := _VISIBLE.fullmatch(text.lower()):
        key = _find(visible[1])
        finding = Finding.UNKNOWN_PART if key is None else Finding.VISIBLE_PART
        return Found(finding, _WORDS[finding], key)
    if flaw := tokens.flaw(text):
        return Found(Finding.MALFORMED, _FLAWS[flaw])
    token = tokens.parse(text, tag_keys=services.tag_keys())
    if isinstance(token, Refusal):
        return Found(Finding.FORGED, _WORDS[Finding.FORGED])
    # Staff who look are no use of the key.
    verdict = services.validate(text, hash_wait=settings.ARGON2_PATIENT_WAIT, is_use=False)
    if verdict.key is not None:
        # All of the row: a verdict has what answers are made of.
        return Found(Finding.PROVED, _WORDS[Finding.PROVED], _find(verdict.key.public_id))
    key = _find(token.public_id)
    finding = Finding.UNKNOWN if key is None else Finding.MADE_UP
    return Found(finding, _WORDS[finding], key)


def _find(public_id: str) -> APIKey | None:
    return APIKey.objects.select_related("owner").filter(public_id=public_id).first()


def _page(
    request: HttpRequest, form: LookupForm, *, found: Found | None = None, status: int = 200
) -> HttpResponse:
    context: dict[str, Any] = {"title": _("Whose is this key?"), "form": form, "found": found}
    if found and found.key:
        context |= {"state": words.state(found.key), "deeds": _deeds(request, found, found.key)}
    return page(request, "lookup.html", context, status=status)


def _deeds(request: HttpRequest, found: Found, key: APIKey) -> list[tuple[str, StrPromise]]:
    """What can be done about it by who looks: where that is asked, and in what word."""
    if key.revoked_at is not None:
        return []
    may = []
    if request.user.has_perm(deeds.REVOKE.permission):
        # Only a key that is out is told to be.
        why = {"reason": "leaked"} if found.finding is Finding.PROVED else {}
        ask = reverse("admin:apikeys_apikey_revoke", args=[key.pk], query=why)
        may.append((ask, deeds.REVOKE.button))
    if key.suspended_at is None and request.user.has_perm(deeds.SUSPEND.permission):
        may.append((reverse("admin:apikeys_apikey_suspend", args=[key.pk]), deeds.SUSPEND.button))
    return may
