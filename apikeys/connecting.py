"""How ComfyUI is pointed here, and what is wrong with a key that does not work."""

from django import forms
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods

from apikeys import services, tokens
from apikeys.hashing import Busy
from apikeys.services import Code
from apikeys.tokens import Flaw
from config.errors import RETRY_AFTER

# What --feature-flag names, beside the button that opens the dialog for a key.
_ADDRESSES = ["comfy_api_base_url", "comfy_platform_base_url", "comfy_cloud_base_url"]

_FLAWS = {
    Flaw.PREFIX: _(
        "This is no key of this platform: those begin with comfyui-. It may be a key of another "
        "service, or its beginning is missing."
    ),
    Flaw.LENGTH: _(
        "This key has %(length)d characters, and a key has %(wanted)d: a part is missing, or "
        "something was pasted along. Copy it whole, once."
    ),
    Flaw.DIGITS: _(
        "A character in this key can't be right: after comfyui- there are only the digits 0 to 9 "
        "and the small letters a to f. Copy it again instead of typing it."
    ),
    Flaw.CHECKSUM: _(
        "This key is mistyped, at least one character is wrong; or it was made on another "
        "platform, such as platform.comfy.org. Copy it again, or generate one here."
    ),
}
_VERDICTS = {
    Code.VALID: _("This key is good: it is “%(name)s” (%(masked)s)."),
    Code.MALFORMED: _FLAWS[Flaw.CHECKSUM],
    Code.NOT_FOUND: _(
        "This key has the right shape, but is not known here. It was made on another platform, or "
        "its account was deleted. Generate a new one."
    ),
    Code.REVOKED: _("This key was deleted. Generate a new one and use that."),
    Code.SUSPENDED: _("This key is suspended. Ask whoever runs this site."),
    Code.EXPIRED: _("This key has expired. Generate a new one and use that."),
    Code.ACCOUNT_DISABLED: _("The account of this key is disabled. Ask whoever runs this site."),
}


class TestForm(forms.Form):
    # Never in the page that answers: a widget for passwords shows no value.
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
        help_text=_("It is checked and forgotten: not stored, not logged, not shown."),
    )


@sensitive_variables()
@sensitive_post_parameters("key")
@require_http_methods(["GET", "HEAD", "POST"])
def connect(request: HttpRequest) -> HttpResponse:
    """For anybody: whoever runs the machine need have no account here."""
    form = TestForm(request.POST or None)
    status = 200
    verdict: tuple[bool, object] | None = None
    if form.is_bound and form.is_valid():
        try:
            verdict = _judge(form.cleaned_data["key"])
        except Busy:
            status, verdict = 503, (False, _("This can't be checked just now. Try again shortly."))
    response = render(
        request,
        "apikeys/connect.html",
        {
            "layout": "app.html" if request.user.is_authenticated else "entrance.html",
            "section": "connect",
            "form": form,
            "verdict": verdict,
            "flags": _flags(settings.PUBLIC_URL),
            "is_https": settings.HTTPS,
            "has_own_authority": settings.TLS and settings.TLS_CERT is None,
        },
        status=status,
    )
    if status == 503:
        response["Retry-After"] = str(RETRY_AFTER)
    return response


def _flags(address: str) -> list[str]:
    """The arguments that point a ComfyUI at `address`."""
    return [
        f"--comfy-api-base {address}",
        *(f"--feature-flag {name}={address}" for name in _ADDRESSES),
        "--feature-flag show_signin_button=true",
    ]


@sensitive_variables()
def _judge(presented: str) -> tuple[bool, str]:
    """Whether it is good, and what to do about it."""
    flaw = tokens.flaw(presented)
    if flaw is not None:
        length = {"length": len(presented.strip()), "wanted": tokens.LENGTH}
        return False, _FLAWS[flaw] % length
    verdict = services.validate(presented, hash_wait=settings.ARGON2_PATIENT_WAIT)
    if verdict.code is not Code.VALID or verdict.key is None:
        return False, str(_VERDICTS[verdict.code])
    shown = {"name": verdict.key.name, "masked": verdict.key.masked}
    return True, _VERDICTS[verdict.code] % shown
