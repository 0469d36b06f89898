"""The authorization endpoint: a logged-in user approves a key for a site or program (RFC 6749)."""

from typing import Any, Final

from authlib.oauth2 import OAuth2Error
from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.csp import csp_override
from django.views.decorators.http import require_http_methods

from accounts.requests import current_user
from apikeys import expiry
from apikeys import services as keys
from audit.models import Via
from audit.services import actor
from core import origins
from core.origins import RejectReason
from oauth import clients, services
from oauth.clients import Client
from oauth.forms import ConsentForm
from oauth.server import (
    AuthlibRequest,
    InteractionRequiredError,
    UnsupportedResponseTypeError,
    server,
)
from oauth.views.approval import describe_scopes, require_eligible, warn_if_impossible

# Bytes of an authorization request's query: its state is sent back in a Location header.
_MAX_QUERY: Final = 4096
# Longest default expiry of a site's key, in days: users may approve many sites.
_SITE_EXPIRY_DAYS: Final = 90


@require_http_methods(["GET", "HEAD", "POST"])
def authorize(request: HttpRequest) -> HttpResponse:
    """The authorization endpoint (OAuth 2.1). The parameters are in the query, also of the POST."""
    authlib_request = AuthlibRequest(request, request.GET)
    client_id = authlib_request.payload.client_id or ""
    client = clients.find_client(client_id)
    redirect_uri = authlib_request.payload.redirect_uri or ""
    if len(request.META["QUERY_STRING"]) > _MAX_QUERY:
        return _error_page(request, _("This request is too long."))
    # Without a valid redirect URI there is no redirect, not even with an error (RFC 6749
    # §4.1.2.1).
    if client is None or not client.check_redirect_uri(redirect_uri):
        return _error_page(request, *_rejection(client_id, client))
    try:
        grant = _validate(authlib_request)
    except OAuth2Error as error:
        error.state = authlib_request.payload.state
        error.redirect_uri = redirect_uri
        response: HttpResponse = server.handle_error_response(authlib_request, error)
        return response
    if not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    return _ask_user(request, authlib_request, grant, client)


def _validate(authlib_request: AuthlibRequest) -> Any:
    """Return Authlib's grant for a valid request. Raise OAuth2Error."""
    authlib_request.reject_ambiguous()
    if authlib_request.payload.response_type != "code":
        raise UnsupportedResponseTypeError
    if "none" in (authlib_request.payload.data.get("prompt") or "").split():
        raise InteractionRequiredError
    authlib_request.scopes()
    return server.get_consent_grant(authlib_request)


def _ask_user(
    request: HttpRequest, authlib_request: AuthlibRequest, grant: Any, client: Client
) -> HttpResponse:
    decision = request.POST.get("decision")
    if decision == "cancel":
        cancelled: HttpResponse = server.create_authorization_response(authlib_request, None, grant)
        return cancelled
    if stop := require_eligible(request, back=request.get_full_path()):
        return stop
    if decision == "allow":
        return _approve(request, authlib_request, grant, client)
    host = client.client_id.partition("://")[2] or client.client_id
    name = services.available_name(current_user(request), host)
    preset = expiry.default_choice(at_most=_SITE_EXPIRY_DAYS)
    form = ConsentForm(initial={"name": name, "expires": preset})
    warn_if_impossible(request, form, " ".join(authlib_request.scopes()))
    return _consent_page(request, authlib_request, client, form)


def _approve(
    request: HttpRequest, authlib_request: AuthlibRequest, grant: Any, client: Client
) -> HttpResponse:
    owner, form = current_user(request), ConsentForm(request.POST)
    if not form.is_valid():
        return _consent_page(request, authlib_request, client, form, status=400)
    try:
        keys.check(owner=owner, scopes=authlib_request.scopes(), **form.cleaned_data)
    except ValidationError as error:
        form.add_error(None, error)
        return _consent_page(request, authlib_request, client, form, status=400)
    authlib_request.consent = {"by": actor(request, via=Via.OAUTH), **form.cleaned_data}
    approved: HttpResponse = server.create_authorization_response(authlib_request, owner, grant)
    return approved


def _consent_page(
    request: HttpRequest,
    authlib_request: AuthlibRequest,
    client: Client,
    form: ConsentForm,
    *,
    status: int = 200,
) -> HttpResponse:
    context = {
        "client": client,
        "form": form,
        "permissions": describe_scopes(list(authlib_request.scopes())),
        "section": "keys",
    }

    def page(request: HttpRequest) -> HttpResponse:
        return render(request, "oauth/authorize.html", context, status=status)

    # Chromium applies form-action to redirects of the response too.
    csp = _csp_allowing(authlib_request.payload.redirect_uri)
    response: HttpResponse = csp_override(csp)(page)(request)
    return response


def _csp_allowing(redirect_uri: str) -> dict[str, list[str]]:
    origin = origins.origin_of(redirect_uri)
    # CSP has no syntax for IPv6 hosts (CSP Level 3 §2.3.1).
    source = "http:" if "[" in origin else origin
    return {
        **settings.SECURE_CSP,
        "form-action": [*settings.SECURE_CSP["form-action"], source],
    }


def _rejection(client_id: str, client: Client | None) -> tuple[str, int]:
    """Return the reason for the user, and the status, of a request without a valid redirect URI."""
    if client is not None:
        return _("It wants to send you to a URL that doesn't belong to it."), 400
    try:
        origins.validate_listable(client_id)
    except origins.OriginRejected as rejected:
        match rejected.reason:
            case RejectReason.PLAIN_HTTP | RejectReason.PRIVATE:
                return _(
                    "It is on a LAN or plain http, where others on the network could "
                    "read the traffic. Such a site can't log people in. Use an API key "
                    "there."
                ), 403
            case _:
                return _("The program or site can't be identified."), 400
    return _("It is not listed on this site. Ask your administrator to add it."), 403


def _error_page(request: HttpRequest, reason: str, status: int = 400) -> HttpResponse:
    return render(request, "oauth/refused.html", {"reason": reason}, status=status)
