"""Staff page that identifies a pasted key and its owner.

The pasted text is not stored and does not appear in any page, log line, session or row. The audit
event names the public id of a key that exists.
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

from accounts.requests import current_user
from accounts.services import may_act_on
from apikeys import admin_actions, messages, services, tokens
from apikeys.key_hasher import key_hasher
from apikeys.models import APIKey
from apikeys.state_badge import state_badge
from apikeys.tokens import ParseError
from audit.models import Action, Via
from audit.services import actor, record
from core.causes import cause_of, log_unavailable
from core.error_views import RETRY_AFTER
from core.exceptions import HashingBusy
from staff.pages import render_page, require

# The visible part of a key in lists and logs, with or without the prefix.
_VISIBLE: Final = re.compile(r"(?:comfyui-)?([0-9a-f]{12})(?:…|\.\.\.)?")


class Result(StrEnum):
    """What a pasted text is. The values are recorded in the audit log."""

    VALID = "proved"
    VISIBLE_PART = "visible part"
    ALTERED = "made up"
    UNKNOWN = "unknown"
    UNKNOWN_PART = "unknown part"
    FOREIGN = "not of this platform"
    MALFORMED = "malformed"


_RESULT_TEXTS: Final = {
    Result.VALID: _(
        "This is a complete API key of this site. Everyone who has it can use it while it is live."
    ),
    Result.VISIBLE_PART: _(
        "This is the visible part of an API key. It gives no access, and does not show that "
        "someone has the rest."
    ),
    Result.ALTERED: _(
        "The visible part is that of the key below, but the rest is wrong: it was made up, or "
        "comes from before a backup was restored. It gives no access."
    ),
    Result.UNKNOWN: _(
        "This key was created on this site but no longer exists: its account was deleted, or a "
        "backup from before its creation was restored. It gives no access."
    ),
    Result.UNKNOWN_PART: _("No API key of this site starts with these digits."),
    Result.FOREIGN: _(
        "This looks like an API key but was not created on this site: it belongs to another site, "
        "such as platform.comfy.org, or was made up. It gives no access here."
    ),
}


@dataclass(frozen=True, slots=True)
class LookupResult:
    result: Result
    text: StrPromise
    key: APIKey | None = None


class LookupForm(forms.Form):
    # PasswordInput never renders a value.
    token = forms.CharField(
        label=_("API key"),
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
            "A complete key, or the part that lists and logs show. It is checked, and neither "
            "stored nor shown nor logged."
        ),
    )


@sensitive_variables()
@sensitive_post_parameters("token")
@require_http_methods(["GET", "HEAD", "POST"])
def lookup(request: HttpRequest) -> HttpResponse:
    require(request, "apikeys.view_apikey")
    if request.method != "POST":
        return _render(request, LookupForm())
    form = LookupForm(request.POST)
    if not form.is_valid():
        return _render(request, form, status=400)
    try:
        found = _identify(form.cleaned_data["token"])
    except HashingBusy as busy:
        log_unavailable(cause_of(busy))
        form.add_error(None, _("The key can't be checked at the moment. Try again in a minute."))
        response = _render(request, form, status=503)
        response["Retry-After"] = str(RETRY_AFTER)
        return response
    # Recorded before anything is shown. A failure raises, and nothing is shown.
    _record_lookup(request, found)
    return _render(request, LookupForm(), found=found)


@sensitive_variables()
def _identify(text: str) -> LookupResult:
    text = text.strip()
    if visible := _VISIBLE.fullmatch(text.lower()):
        key = _find(visible[1])
        result = Result.UNKNOWN_PART if key is None else Result.VISIBLE_PART
        return LookupResult(result, _RESULT_TEXTS[result], key)
    if error := tokens.shape_error(text):
        return LookupResult(Result.MALFORMED, messages.SHAPE_ERRORS_FOR_STAFF[error])
    token = tokens.parse(text, tag_keys=key_hasher().tag_keys)
    if isinstance(token, ParseError):
        return LookupResult(Result.FOREIGN, _RESULT_TEXTS[Result.FOREIGN])
    # A look-up by staff does not count as a use of the key.
    verdict = services.validate(text, hash_wait=settings.ARGON2_PATIENT_WAIT, is_use=False)
    if verdict.key is not None:
        # Loaded again, since a verdict's key has only the fields for API responses.
        return LookupResult(Result.VALID, _RESULT_TEXTS[Result.VALID], _find(verdict.key.public_id))
    key = _find(token.public_id)
    result = Result.UNKNOWN if key is None else Result.ALTERED
    return LookupResult(result, _RESULT_TEXTS[result], key)


def _record_lookup(request: HttpRequest, found: LookupResult) -> None:
    record(
        Action.STAFF_LOOKED_UP,
        account_id=None if found.key is None else found.key.owner_id,
        key=found.key,
        by=actor(request, via=Via.ADMIN),
        detail={"found": found.result},
    )


def _find(public_id: str) -> APIKey | None:
    return APIKey.objects.select_related("owner").filter(public_id=public_id).first()


def _render(
    request: HttpRequest, form: LookupForm, *, found: LookupResult | None = None, status: int = 200
) -> HttpResponse:
    context: dict[str, Any] = {"title": _("Look up a key"), "form": form, "found": found}
    if found and found.key:
        context |= {"state": state_badge(found.key), "actions": _actions(request, found, found.key)}
    return render_page(request, "lookup.html", context, status=status)


def _actions(
    request: HttpRequest, found: LookupResult, key: APIKey
) -> list[tuple[str, StrPromise]]:
    """Return URL and label of each action that the staff member may apply to `key`."""
    if key.revoked_at is not None or not may_act_on(key.owner, by=current_user(request)):
        return []
    actions = []
    if request.user.has_perm(admin_actions.REVOKE.permission):
        # Only a whole key has leaked. Its visible part is no secret.
        query = {"reason": "leaked"} if found.result is Result.VALID else {}
        url = reverse("admin:apikeys_apikey_revoke", args=[key.pk], query=query)
        actions.append((url, admin_actions.REVOKE.button))
    if key.suspended_at is None and request.user.has_perm(admin_actions.SUSPEND.permission):
        actions.append(
            (reverse("admin:apikeys_apikey_suspend", args=[key.pk]), admin_actions.SUSPEND.button)
        )
    return actions
