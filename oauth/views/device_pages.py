"""Pages where a logged-in user approves or denies a key for a machine (RFC 8628 §3.3)."""

from typing import Final
from urllib.parse import urlencode
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_safe

from accounts import device_tracking
from accounts.requests import current_user
from apikeys import expiry
from apikeys import services as keys
from audit.models import Via
from audit.services import actor
from core.private_names.allauth import ratelimit
from core.requests import request_ip
from oauth import codes, services
from oauth.forms import ConsentForm, UserCodeForm
from oauth.models import DeviceRequest
from oauth.views.approval import describe_scopes, require_eligible, warn_if_impossible

# One message for unknown, used and expired codes, so that a guess reveals nothing.
_NO_SUCH_CODE: Final = gettext_lazy(
    "No device is waiting with this code. It has a typo, was already used, or has "
    "expired. Start again on the device."
)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def device(request: HttpRequest) -> HttpResponse:
    """The user enters a code, sees which machine shows it, and decides (RFC 8628 §3.3)."""
    if request.method != "POST":
        # A code in the query, from a QR code, is looked up only after the user submits it.
        form = UserCodeForm(initial={"user_code": request.GET.get("user_code", "")[:32]})
        return _code_page(request, form)
    form = UserCodeForm(request.POST)
    if not form.is_valid():
        return _code_page(request, form, status=400)
    back = f"{reverse('device')}?{urlencode({'user_code': form.cleaned_data['user_code']})}"
    return require_eligible(request, back=back) or _look_up(request, form)


def _look_up(request: HttpRequest, form: UserCodeForm) -> HttpResponse:
    # Counted before the lookup, as guesses may be concurrent. A correct code is not counted.
    tried = ratelimit.consume(request, action="device_try", app="allauth.account")
    if not tried:
        form.add_error("user_code", _("Too many attempts. Try again in a few minutes."))
        return _code_page(request, form, status=429)
    device_request = services.find_pending_device(form.cleaned_data["user_code"])
    if device_request is None:
        form.add_error("user_code", _NO_SUCH_CODE)
        return _code_page(request, form, status=400)
    tried.rollback()
    if (decision := request.POST.get("decision")) in {"confirm", "deny"}:
        return _decide(request, device_request, form, is_approved=decision == "confirm")
    wanted = device_request.device_name or device_request.client_id
    name = services.available_name(current_user(request), wanted)
    consent_form = ConsentForm(initial={"name": name})
    warn_if_impossible(request, consent_form, device_request.scopes)
    return _confirm_page(request, device_request, form, consent_form)


def _decide(
    request: HttpRequest,
    device_request: DeviceRequest,
    code_form: UserCodeForm,
    *,
    is_approved: bool,
) -> HttpResponse:
    by, form = actor(request, via=Via.OAUTH), ConsentForm(request.POST)
    try:
        if not is_approved:
            is_first = services.deny_device(device_request, by=by)
        elif form.is_valid():
            is_first = services.approve_device(device_request, by=by, **form.cleaned_data)
        else:
            return _confirm_page(request, device_request, code_form, form, status=400)
    except ValidationError as error:
        form.add_error(None, error)
        return _confirm_page(request, device_request, code_form, form, status=400)
    if not is_first:
        code_form.add_error("user_code", _NO_SUCH_CODE)
        return _code_page(request, code_form, status=400)
    return redirect("device_done", device_request.pk)


def _code_page(request: HttpRequest, form: UserCodeForm, *, status: int = 200) -> HttpResponse:
    return render(request, "oauth/device.html", {"form": form, "section": "keys"}, status=status)


def _confirm_page(
    request: HttpRequest,
    device_request: DeviceRequest,
    code_form: UserCodeForm,
    form: ConsentForm,
    *,
    status: int = 200,
) -> HttpResponse:
    user_agent = device_request.user_agent
    context = {
        "device_request": device_request,
        "agent": device_tracking.describe(user_agent) if user_agent else "",
        "code": codes.format_user_code(code_form.cleaned_data["user_code"]),
        "form": form,
        "is_same_ip": device_request.address == request_ip(request),
        "permissions": describe_scopes(device_request.scopes.split()),
        "section": "keys",
    }
    return render(request, "oauth/confirm_device.html", context, status=status)


@login_required
@require_safe
def device_done(request: HttpRequest, device_id: UUID) -> HttpResponse:
    """The outcome of a device request that the user decided."""
    owner = current_user(request)
    device_request = get_object_or_404(DeviceRequest, pk=device_id, owner=owner)
    key = services.key_of(device_request)
    problem = ""
    if device_request.approved and key is None:
        try:
            name = services.available_name(owner, device_request.key_name)
            expires_at = expiry.earliest(device_request.key_expires_at, expiry.latest_expires_at())
            keys.check(owner=owner, name=name, expires_at=expires_at)
        except ValidationError as error:
            problem = " ".join(error.messages)
    context = {"device_request": device_request, "key": key, "problem": problem, "section": "keys"}
    return render(request, "oauth/device_done.html", context)
