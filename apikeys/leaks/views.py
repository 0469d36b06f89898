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
from core.error_views import RETRY_AFTER
from core.exceptions import HashingBusy

# Using the key would reveal as much. The owner is not named.
_THANKS: Final = {
    Label.TRUE_POSITIVE: _(
        "Thank you. It was a key of this platform, and it opens nothing now. Its owner is told."
    ),
    Label.FALSE_POSITIVE: _(
        "Thank you. This key opens nothing here: it is not known, or its account is gone. There is "
        "nothing more to do."
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
        help_text=_("All of it: 72 characters. It is checked and forgotten, and not shown."),
    )
    url = forms.CharField(
        label=_("Address of the page where you found it"),
        required=False,
        max_length=2000,
        widget=forms.TextInput(
            attrs={"autocomplete": "off", "inputmode": "url", "placeholder": "https://…"}
        ),
        help_text=_("Its owner is told, so that they can remove it there."),
    )

    def clean_key(self) -> str:
        key: str = self.cleaned_data["key"]
        if tokens.shape_error(key) is not None:
            raise forms.ValidationError(
                _(
                    "This is no whole key of this platform: those are comfyui- and 64 of the "
                    "digits 0 to 9 and the letters a to f. If a part is all you found, it opens "
                    "nothing."
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
        form.add_error(None, _("That was tried too often. Wait some minutes."))
        return _page(request, form, status=429, retry_after=60)
    if not form.is_valid():
        return _page(request, form, status=400)
    url = form.cleaned_data["url"]
    find = Find(form.cleaned_data["key"], url=url, note="" if sanitize_url.sanitize(url) else url)
    try:
        (label,) = leaks.report([find], reporter=Reporter.PERSON, client_ip=None)
    except HashingBusy:
        form.add_error(None, _("This can't be checked just now. Try again shortly."))
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
