"""Pages where a signed-in person lets a machine or a site have a key, or does not."""

from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from allauth.core.internal import ratelimit
from authlib.oauth2 import OAuth2Error
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.csp import csp_override
from django.views.decorators.http import require_http_methods, require_safe

from accounts import devices, reauthentication
from accounts.services import may_hold_keys
from apikeys import scopes
from apikeys import services as keys
from apikeys.requests import account
from audit.models import Via
from audit.trail import actor
from oauth import clients, codes, origins, services
from oauth.clients import Client
from oauth.forms import AllowForm, UserCodeForm
from oauth.models import DeviceRequest
from oauth.origins import Why
from oauth.server import Asked, InteractionRequiredError, UnsupportedResponseTypeError, server

# Of an authorization request, whose state comes back in a header.
_MAX_QUERY: Final = 4096
# A browser began it, and there may be many of those.
_EXPIRY_OF_SITES: Final = "90"
# One answer, so that nobody learns more of a code than that it is of no use.
_NO_SUCH_CODE: Final = gettext_lazy(
    "No machine waits with this code. It is mistyped, was used, or is older than ten minutes: "
    "start anew on the machine."
)


def in_words(granted: list[str]) -> list[str]:
    """What a key may do, as its owner understands it."""
    words = {
        scopes.SIGN_IN: _("sign in to ComfyUI as you: it sees your name and your address"),
        scopes.ANY_PROVIDER: _("use API nodes through this site's gateway"),
        scopes.MANAGE: _("list, replace and delete all your keys"),
    }
    return [
        words.get(scope)
        or _("use API nodes of %(provider)s through this site's gateway")
        % {"provider": scope.partition(":")[2]}
        for scope in granted
    ]


def _stop(request: HttpRequest, *, back: str) -> HttpResponse | None:
    """Whoever may not have a key now is told so, or asked who they are."""
    if not may_hold_keys(account(request)):
        messages.error(request, _("Confirm your email address before you generate a key."))
        return redirect("account_email")
    if not reauthentication.is_fresh(request, within=settings.LONG_SESSION):
        return reauthentication.ask(request, then=back)
    return None


# --- Machines ---------------------------------------------------------------------------------


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def device(request: HttpRequest) -> HttpResponse:
    """The person types the code of a machine; then they see which one, and decide."""
    if request.method != "POST":
        # A code in the address, as a QR code has it, is looked up only once its reader says so.
        form = UserCodeForm(initial={"user_code": request.GET.get("user_code", "")[:32]})
        return _code_page(request, form)
    form = UserCodeForm(request.POST)
    if not form.is_valid():
        return _code_page(request, form, status=400)
    back = f"{reverse('device')}?{urlencode({'user_code': form.cleaned_data['user_code']})}"
    if stop := _stop(request, back=back):
        return stop
    # Counted before it is looked at: guesses may come many at once. A right one does not count.
    tried = ratelimit.consume(request, action="device_try", app="allauth.account")
    if not tried:
        form.add_error("user_code", _("That was tried too often. Wait some minutes."))
        return _code_page(request, form, status=429)
    asking = services.waiting_device(form.cleaned_data["user_code"])
    if asking is None:
        form.add_error("user_code", _NO_SUCH_CODE)
        return _code_page(request, form, status=400)
    tried.rollback()
    return _decide_on(request, asking, code_form=form)


def _decide_on(
    request: HttpRequest, asking: DeviceRequest, *, code_form: UserCodeForm
) -> HttpResponse:
    owner, decision = account(request), request.POST.get("decision")
    suggested = services.free_name(owner, asking.device_name or asking.client_id)
    if decision not in {"confirm", "deny"}:
        form = AllowForm(initial={"name": suggested})
        return _confirm_page(request, asking, code_form, form)
    by = actor(request, via=Via.OAUTH)
    form = AllowForm(request.POST)
    try:
        if decision == "deny":
            is_first = services.deny_device(asking, by=by)
        elif form.is_valid():
            is_first = services.approve_device(asking, by=by, **form.cleaned_data)
        else:
            return _confirm_page(request, asking, code_form, form, status=400)
    except ValidationError as error:
        form.add_error(None, error)
        return _confirm_page(request, asking, code_form, form, status=400)
    if not is_first:
        code_form.add_error("user_code", _NO_SUCH_CODE)
        return _code_page(request, code_form, status=400)
    return redirect("device_done", asking.pk)


def _code_page(request: HttpRequest, form: UserCodeForm, *, status: int = 200) -> HttpResponse:
    return render(request, "oauth/device.html", {"form": form, "section": "keys"}, status=status)


def _confirm_page(
    request: HttpRequest,
    asking: DeviceRequest,
    code_form: UserCodeForm,
    form: AllowForm,
    *,
    status: int = 200,
) -> HttpResponse:
    if status == 200:
        _warn_early(request, form, asking.scopes)
    return render(
        request,
        "oauth/confirm_device.html",
        {
            "asking": asking,
            "agent": devices.describe(asking.user_agent) if asking.user_agent else "",
            "code": codes.shown(code_form.cleaned_data["user_code"]),
            "form": form,
            "is_same_address": asking.address == request.META.get("REMOTE_ADDR"),
            "may": in_words(asking.scopes.split()),
            "section": "keys",
        },
        status=status,
    )


def _warn_early(request: HttpRequest, form: AllowForm, granted: str) -> None:
    """Says before anything is decided that this account can't have another key."""
    try:
        keys.check(owner=account(request), name=str(form["name"].value()), scopes=granted.split())
    except ValidationError as error:
        for message in error.messages:
            messages.warning(request, message)


@login_required
@require_safe
def device_done(request: HttpRequest, device_id: UUID) -> HttpResponse:
    """What became of a machine that the person answered."""
    asking = get_object_or_404(DeviceRequest, pk=device_id, owner=account(request))
    key = services.key_of(asking)
    trouble = ""
    if asking.approved and key is None:
        try:
            keys.check(
                owner=account(request),
                name=services.free_name(account(request), asking.key_name),
            )
        except ValidationError as error:
            trouble = " ".join(error.messages)
    context = {"asking": asking, "key": key, "trouble": trouble, "section": "keys"}
    return render(request, "oauth/device_done.html", context)


# --- Sites and programs with a browser --------------------------------------------------------


@require_http_methods(["GET", "HEAD", "POST"])
def authorize(request: HttpRequest) -> HttpResponse:
    """OAuth 2.1's authorization endpoint. What is asked stands in the address, also of the POST."""
    asked = Asked(request, request.GET)
    client = clients.find(asked.payload.client_id or "")
    redirect_uri = asked.payload.redirect_uri or ""
    if len(request.META["QUERY_STRING"]) > _MAX_QUERY:
        return _refuse(request, _("This request is too long."))
    # Nobody is sent to an address that was not found good, not even with an error.
    if client is None or not client.check_redirect_uri(redirect_uri):
        return _refuse(request, *_why_not(asked.payload.client_id or "", client))
    try:
        grant = _read(asked)
    except OAuth2Error as error:
        error.state = asked.payload.state
        error.redirect_uri = redirect_uri
        response: HttpResponse = server.handle_error_response(asked, error)
        return response
    if not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    if request.POST.get("decision") == "cancel":
        cancelled: HttpResponse = server.create_authorization_response(asked, None, grant)
        return cancelled
    if stop := _stop(request, back=request.get_full_path()):
        return stop
    return _consent(request, asked, grant, client)


def _read(asked: Asked) -> Any:
    """Authlib's grant for what is asked. Raises OAuth2Error."""
    asked.refuse_unclear()
    if asked.payload.response_type != "code":
        raise UnsupportedResponseTypeError
    if "none" in (asked.payload.data.get("prompt") or "").split():
        raise InteractionRequiredError
    asked.scopes()
    return server.get_consent_grant(asked)


def _consent(request: HttpRequest, asked: Asked, grant: Any, client: Client) -> HttpResponse:
    owner = account(request)
    if request.POST.get("decision") != "allow":
        where = client.client_id.partition("://")[2] or client.client_id
        name = services.free_name(owner, where)
        form = AllowForm(initial={"name": name, "expires": _EXPIRY_OF_SITES})
        _warn_early(request, form, " ".join(asked.scopes()))
        return _consent_page(request, asked, client, form)
    form = AllowForm(request.POST)
    if form.is_valid():
        try:
            keys.check(owner=owner, scopes=asked.scopes(), **form.cleaned_data)
        except ValidationError as error:
            form.add_error(None, error)
        else:
            asked.consent = {"by": actor(request, via=Via.OAUTH), **form.cleaned_data}
            allowed: HttpResponse = server.create_authorization_response(asked, owner, grant)
            return allowed
    return _consent_page(request, asked, client, form, status=400)


def _consent_page(
    request: HttpRequest, asked: Asked, client: Client, form: AllowForm, *, status: int = 200
) -> HttpResponse:
    context = {
        "client": client,
        "form": form,
        "may": in_words(list(asked.scopes())),
        "section": "keys",
    }

    def page(request: HttpRequest) -> HttpResponse:
        return render(request, "oauth/authorize.html", context, status=status)

    # Chromium holds a form to its policy also where the answer to it leads.
    response: HttpResponse = csp_override(_leading_to(asked.payload.redirect_uri))(page)(request)
    return response


def _leading_to(redirect_uri: str) -> dict[str, list[str]]:
    site = origins.of(redirect_uri)
    # A policy has no way to write an IPv6 address (CSP Level 3 §2.3.1).
    source = "http:" if "[" in site else site
    return {
        **settings.SECURE_CSP,
        "form-action": [*settings.SECURE_CSP["form-action"], source],
    }


def _why_not(client_id: str, client: Client | None) -> tuple[str, int]:
    """Why nobody is sent back to where they came from: words, and a status."""
    if client is not None:
        return _("It wants you to be sent to an address that is not its own."), 400
    try:
        origins.to_list(client_id)
    except origins.Refused as refused:
        match refused.why:
            case Why.PLAIN_HTTP | Why.PRIVATE:
                return _(
                    "It is on a LAN, or on plain http, where anybody on the way could read along. "
                    "Such a site can't sign people in with their session: it uses a key."
                ), 403
            case _:
                return _("Which program or site it is can't be understood."), 400
    return _("Nobody who runs this platform has listed it. They can, if you ask them."), 403


def _refuse(request: HttpRequest, why: str, status: int = 400) -> HttpResponse:
    return render(request, "oauth/refused.html", {"why": why}, status=status)
