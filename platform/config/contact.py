"""Whom to tell of a weakness: RFC 9116's /.well-known/security.txt."""

from datetime import timedelta

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone

from config.errors import safe_methods_only

# "Less than a year into the future" (§2.5.5). Whoever keeps a copy shall look again.
_GOOD_FOR = timedelta(days=180)


@safe_methods_only
def security_txt(request: HttpRequest) -> HttpResponse:
    if not settings.SECURITY_CONTACT:
        raise Http404
    midnight = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
    lines = [
        *(f"Contact: {contact}" for contact in settings.SECURITY_CONTACT),
        f"Expires: {midnight + _GOOD_FOR:%Y-%m-%dT%H:%M:%SZ}",
        "Preferred-Languages: en",
    ]
    # Web addresses in it "MUST begin with https" (§2.5.2).
    if settings.HTTPS:
        lines.append(f"Canonical: {settings.PUBLIC_URL}/.well-known/security.txt")
    return HttpResponse("\n".join([*lines, ""]), content_type="text/plain; charset=utf-8")
