"""The page on how to connect ComfyUI, with a form to test a key."""

from django import forms
from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods

from accounts.models import User
from apikeys import messages, services, tokens
from apikeys.services import VerdictCode
from core.causes import cause_of, log_unavailable
from core.error_views import RETRY_AFTER
from core.exceptions import HashingBusy

# The tabs of the page, in their order. "system" in the URL and in a cookie is one of them.
SYSTEMS = {
    "portable": _("Windows portable"),
    "desktop": _("Desktop app"),
    "local": _("Linux, macOS"),
    "docker": _("Docker"),
    "lan": _("LAN without https"),
    "cli": "comfy-cli",
    "scripts": _("Scripts"),
}
_COOKIE_AGE = 400 * 24 * 3600

# URLs that --feature-flag sets.
_URL_FLAGS = ["comfy_api_base_url", "comfy_platform_base_url", "comfy_cloud_base_url"]

# Frontends from 1.54 on ignore a URL without https; 1.51 and 1.52 send the key elsewhere.
_NEWEST_FRONTEND = "pip install -U comfyui-frontend-package"
_FRONTEND_WITHOUT_HTTPS = 'pip install -U "comfyui-frontend-package==1.50.*"'


class TestForm(forms.Form):
    # A password widget does not render its value.
    key = forms.CharField(
        label=_("Your key"),
        max_length=4096,
        widget=forms.PasswordInput(
            attrs={
                "autocomplete": "off",
                "spellcheck": "false",
                "placeholder": "comfyui-…",
                "data-forgets": True,
            }
        ),
        help_text=_("We check it and forget it: it is not stored, logged or shown."),
    )


@sensitive_variables()
@sensitive_post_parameters("key")
@require_http_methods(["GET", "HEAD", "POST"])
def connect(request: HttpRequest) -> HttpResponse:
    """Show the page, also without a login: operators of a ComfyUI may have no account."""
    form = TestForm(request.POST or None)
    status = 200
    verdict: tuple[bool, object] | None = None
    if form.is_valid():
        try:
            verdict = _test_key(form.cleaned_data["key"], user=request.user)
        except HashingBusy as busy:
            log_unavailable(cause_of(busy))
            status, verdict = 503, (False, _("We can't check this right now. Try again shortly."))
    context = {
        "layout": "app.html" if request.user.is_authenticated else "entrance.html",
        "systems": SYSTEMS.items(),
        "system": system_of(request),
        "section": "connect",
        "form": form,
        "verdict": verdict,
        **instructions(),
    }
    response = render(request, "apikeys/connect.html", context, status=status)
    if status == 503:
        response["Retry-After"] = str(RETRY_AFTER)
    _remember_system(request, response)
    return response


def system_of(request: HttpRequest) -> str:
    """Return the key in SYSTEMS that was chosen now or before, else a guess by the User-Agent."""
    for chosen in (
        request.GET.get("system"),
        request.COOKIES.get(settings.CONNECT_COOKIE_NAME),
    ):
        if chosen in SYSTEMS:
            return chosen
    return likely_installation(request.headers.get("User-Agent", ""))


def _remember_system(request: HttpRequest, response: HttpResponse) -> None:
    if (chosen := request.GET.get("system")) in SYSTEMS:
        response.set_cookie(
            settings.CONNECT_COOKIE_NAME,
            chosen,
            _COOKIE_AGE,
            secure=settings.HTTPS,
            httponly=True,
            samesite="Lax",
        )


def instructions() -> dict[str, object]:
    """Return what templates say about connecting ComfyUI to this platform."""
    upgrade = _NEWEST_FRONTEND if settings.HTTPS else _FRONTEND_WITHOUT_HTTPS
    return {
        "flags": flags(settings.PUBLIC_URL),
        "is_https": settings.HTTPS,
        "upgrade": upgrade,
        # The portable version has its own Python, in the folder that it is unpacked into.
        "portable_upgrade": f".\\python_embeded\\python.exe -m {upgrade}",
        "has_own_authority": settings.TLS and settings.TLS_CERT is None,
    }


def likely_installation(user_agent: str) -> str:
    """Return how ComfyUI is probably installed: `portable` (Windows), `desktop` or `local` (git).

    The user may run ComfyUI on another machine than the browser: this is a default only.
    """
    if "Windows" in user_agent:
        return "portable"
    return "desktop" if "Macintosh" in user_agent else "local"


def flags(url: str) -> list[str]:
    """Return the arguments that connect a ComfyUI to `url`."""
    return [
        f"--comfy-api-base {url}",
        *(f"--feature-flag {name}={url}" for name in _URL_FLAGS),
        "--feature-flag show_signin_button=true",
    ]


@sensitive_variables()
def _test_key(presented: str, *, user: User | AnonymousUser) -> tuple[bool, str]:
    """Return whether the key is valid, and a message for the user."""
    error = tokens.shape_error(presented)
    if error is not None:
        length = {"length": len(presented.strip()), "wanted": tokens.LENGTH}
        return False, messages.SHAPE_ERRORS[error] % length
    # is_use=False: "last used" must not show tests.
    verdict = services.validate(presented, hash_wait=settings.ARGON2_PATIENT_WAIT, is_use=False)
    if verdict.code is not VerdictCode.VALID or verdict.key is None:
        return False, str(messages.VERDICTS_ON_PAGE[verdict.code])
    names = {"name": verdict.key.name, "masked": verdict.key.masked}
    message = messages.VERDICTS_ON_PAGE[verdict.code] % names
    if networks := verdict.key.allowed_network_list:
        # They would show another finder of the key from where it can be used.
        is_owner = user.pk == verdict.key.owner_id
        only = messages.NETWORKS_ON_PAGE if is_owner else messages.SOME_NETWORKS_ON_PAGE
        message = f"{message} {only % {'networks': ', '.join(networks)}}"
    return True, message
