"""The page of a key: what it is, how it is used, and what its owner may change."""

from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_http_methods

from accounts.requests import current_user
from apikeys.models import APIKey


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def key(request: HttpRequest, key_id: UUID) -> HttpResponse:
    key = get_object_or_404(APIKey, pk=key_id, owner=current_user(request))
    return render(request, "apikeys/key.html", {"key": key, "section": "keys"})
