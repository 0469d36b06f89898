"""The page to report a key that was found."""

from typing import Final

from allauth.core import ratelimit
from django import forms
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods

from apikeys import tokens
from apikeys.leaks import sanitize_url
from apikeys.leaks import services as leaks
from apikeys.leaks.services import Find, Label, Reporter
from core.causes import cause_of, log_unavailable
from core.error_views import RETRY_AFTER
from core.exceptions import HashingBusy

# Using the key would reveal as much. The owner is not named.
_THANKS: Final = {
    Label.TRUE_POSITIVE: _(
        "Thank you. It was an API key of this site and no longer works. We'll email its owner."
    ),
    Label.FALSE_POSITIVE: _(
        "Thank you. This key gives no access to this site: it is unknown, or its "
        "account was deleted. You have nothing else to do."
    ),
}


class ReportForm(forms.Form):
    # A password widget does not render its value.
    key = forms.CharField(
        label=_("The key"),
        max_length=4096,
        widget=forms.PasswordInput(
            attrs={
                "autocomplete": "off",
                "spellcheck": "false",
                "placeholder": "comfyui-…",
                "data-forgets": True,
            }
        ),
        help_text=_(
            "The whole key, 72 characters. We check it and forget it: it is not "
            "stored, logged or shown."
        ),
    )
    url = forms.CharField(
        label=_("URL of the page where you found it"),
        required=False,
        max_length=2000,
        widget=forms.TextInput(
            attrs={
                "autocomplete": "off",
                "inputmode": "url",
                "placeholder": "https://…",
                "dir": "ltr",
            }
        ),
        help_text=_("We pass it on to the owner, so that they can remove the key there."),
    )

    def clean_key(self) -> str:
        key: str = self.cleaned_data["key"]
        if tokens.shape_error(key) is not None:
            raise forms.ValidationError(
                _(
                    "This isn't a complete key. Keys start with comfyui- and are 72 "
                    "characters long. A part of a key gives no access."
                )
            )
        return key


@sensitive_variables()
@sensitive_post_parameters("key")
@require_http_methods(["GET", "HEAD", "POST"])
def report(request: HttpRequest) -> HttpResponse:
    """Accept a report without a login, and store nothing about the sender."""
    if request.method != "POST":
        return _page(request, ReportForm())
    form = ReportForm(_without_keys(request.POST))
    if not ratelimit.consume(request, action="leak_report"):
        form.add_error(None, _("Too many attempts. Try again in a few minutes."))
        return _page(request, form, status=429, retry_after=60)
    if not form.is_valid():
        return _page(request, form, status=400)
    url = form.cleaned_data["url"]
    find = Find(form.cleaned_data["key"], url=url, note="" if sanitize_url.sanitize(url) else url)
    try:
        (label,) = leaks.report([find], reporter=Reporter.PERSON, client_ip=None)
    except HashingBusy as busy:
        log_unavailable(cause_of(busy))
        form.add_error(None, _("We can't check this right now. Try again shortly."))
        return _page(request, form, status=503, retry_after=RETRY_AFTER)
    # Not a redirect: the message would have to be stored in a session.
    return _page(request, ReportForm(), thanks=str(_THANKS[label]))


def _without_keys(data: QueryDict) -> dict[str, str]:
    """Return the form data; the URL, which the page shows again, without keys."""
    url = data.get("url", "")
    return {
        "key": data.get("key", ""),
        "url": sanitize_url.sanitize(url) or sanitize_url.without_keys(url),
    }


def _page(
    request: HttpRequest,
    form: ReportForm,
    *,
    thanks: str = "",
    status: int = 200,
    retry_after: int | None = None,
) -> HttpResponse:
    response = render(
        request,
        "apikeys/leaks.html",
        {
            "layout": "app.html" if request.user.is_authenticated else "entrance.html",
            "section": "connect",
            "form": form,
            "thanks": thanks,
        },
        status=status,
    )
    if retry_after is not None:
        response["Retry-After"] = str(retry_after)
    return response
