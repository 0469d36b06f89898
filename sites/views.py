"""Pages of protected sites: the list for people, the login, and the callback at the site."""

from collections.abc import Collection
from contextlib import suppress
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.cache import patch_cache_control
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from accounts.requests import current_user
from accounts.services import may_hold_keys
from accounts.sessions import stored_key
from core import error_views, site_names
from sites import access, comfyui_users, sign_in
from sites.models import ProtectedSite


@login_required
@require_safe
def list_sites(request: HttpRequest) -> HttpResponse:
    """The page with the sites that the user may enter."""
    context = {"sites": access.sites_of(current_user(request)), "section": "sites"}
    return render(request, "sites/sites.html", context)


@require_safe
def start(request: HttpRequest) -> HttpResponse:
    """Lead a logged-in user on to the site, with a code. Where a site's redirect leads to."""
    given = _parameters(request, {"site", "challenge", "path"})
    if (
        given is None
        or not site_names.is_token(given["challenge"])
        or not sign_in.is_path(given["path"])
    ):
        return error_views.bad_request(request, ValueError())
    site = _site_or_404(given["site"])
    if not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    user = current_user(request)
    if not may_hold_keys(user):
        messages.error(request, _("Confirm your email before you open ComfyUI."))
        return redirect("account_email")
    if not access.may_enter(user, site):
        return render(request, "sites/refused.html", {"site": site}, status=403)
    code = sign_in.issue_code(
        user,
        site,
        session_key=stored_key(request.session.session_key),
        challenge=given["challenge"],
        path=given["path"],
    )
    url = f"{site.origin}{sign_in.CALLBACK}?{urlencode({'code': code})}"
    # A page and no redirect: Chromium applies form-action of the login to redirects after it.
    return render(request, "sites/continue.html", {"site": site, "url": url})


@require_safe
def callback(request: HttpRequest, authority: str) -> HttpResponse:
    """Set the cookie of the site's session. The site's proxy forwards /_site/callback here.

    With `code` the session begins, and the browser comes again with `path`, which shows whether it
    has kept the cookie: without this step, a browser that refuses it would be redirected for ever.
    Only navigations count: no script of the site, nor its service worker, redeems a code by itself.
    """
    site = _site_or_404(authority)
    if (
        "Service-Worker" in request.headers
        or request.headers.get("Sec-Fetch-Mode", "navigate") != "navigate"
    ):
        raise PermissionDenied
    response = _begin_session(request, site) if "code" in request.GET else _go_on(request, site)
    patch_cache_control(response, no_store=True)
    return response


def _begin_session(request: HttpRequest, site: ProtectedSite) -> HttpResponse:
    given = _parameters(request, {"code"})
    nonce = _cookie(request, site_names.nonce_cookie(site.authority))
    redeemed = sign_in.redeem(request, given["code"], site, nonce=nonce) if given else None
    if redeemed is None:
        return _failed(site)
    session, token, path = redeemed
    if site.comfyui_url:
        # If it is unavailable, the first request that needs the user says so.
        with suppress(comfyui_users.ComfyUIUnavailable):
            comfyui_users.check(site, session.owner)
    url = f"{site.origin}{sign_in.CALLBACK}?{urlencode({'path': path})}"
    # A page and no redirect: to the browser, the page of ComfyUI is then opened by the site itself,
    # and not by the platform, from where only some paths can be opened (fetch_metadata).
    response = render(request, "sites/arrived.html", {"site": site, "url": url})
    sign_in.set_cookie(response, site_names.session_cookie(site.authority), token, site)
    # What the browser has kept of this site may be of another person.
    response["Clear-Site-Data"] = '"cache"'
    # ComfyUI would read the code there.
    response["Referrer-Policy"] = "no-referrer"
    return response


def _cookie(request: HttpRequest, name: str) -> str:
    return site_names.cookie_value(request.META.get("HTTP_COOKIE", ""), name)


def _go_on(request: HttpRequest, site: ProtectedSite) -> HttpResponse:
    given = _parameters(request, {"path"})
    token = _cookie(request, site_names.session_cookie(site.authority))
    if given is None or not sign_in.is_path(given["path"]):
        return _failed(site)
    if sign_in.find_session(token, site) is None:
        return _failed(site)
    return HttpResponseRedirect(f"{site.origin}{given['path']}")


@require_safe
def users(request: HttpRequest, authority: str) -> HttpResponse:
    """Answer ComfyUI's page as a ComfyUI with one user does, so that it asks for no user.

    The site's proxy forwards /users here: it names the user of each request itself.
    """
    _site_or_404(authority)
    return JsonResponse({"storage": "server", "migrated": True})


@require_safe
def failed(request: HttpRequest) -> HttpResponse:
    """The page for a login that did not arrive at the site."""
    given = _parameters(request, {"site"})
    if given is None:
        return error_views.bad_request(request, ValueError())
    site = _site_or_404(given["site"])
    return render(request, "sites/failed.html", {"site": site}, status=400)


def _failed(site: ProtectedSite) -> HttpResponse:
    """Redirect to the page about it: at the site's origin, this platform's style is missing."""
    query = urlencode({"site": site.authority})
    return HttpResponseRedirect(f"{settings.PUBLIC_URL}{reverse('site_failed')}?{query}")


def _parameters(request: HttpRequest, names: Collection[str]) -> dict[str, str] | None:
    """Return the query's parameters if they are exactly these, each once; else None."""
    is_exact = set(request.GET) == set(names)
    is_single = all(len(values) == 1 for _name, values in request.GET.lists())
    return request.GET.dict() if is_exact and is_single else None


def _site_or_404(name: str) -> ProtectedSite:
    site = access.find_site(name)
    if site is None:
        raise Http404
    return site
