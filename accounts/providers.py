"""What our two providers have in common: answers are read with care, callbacks go to PUBLIC_URL."""

from collections.abc import Callable
from typing import Any

from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from allauth.socialaccount.providers.oauth2.views import OAuth2Adapter
from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse

# How long an id may be that the database keeps (RFC 9562 and every provider's are far shorter).
MAX_ID = 191


class Careful(OAuth2Adapter):  # type: ignore[misc]
    """Comes before allauth's adapter of a provider."""

    def get_callback_url(self, request: HttpRequest, app: Any) -> str:
        """The one that staff registered, whatever the request's Host header says."""
        return f"{settings.PUBLIC_URL}{reverse(f'{self.provider_id}_callback')}"

    def complete_login(self, request: HttpRequest, app: Any, token: Any, **kwargs: Any) -> Any:
        try:
            return super().complete_login(request, app, token, **kwargs)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            # Not what the provider says it answers. allauth knows what to say of that.
            raise OAuth2Error("The answer can't be read.") from error


def known(data: dict[str, Any], read: Callable[[Any], bool], name: str) -> str:
    """The provider's id of a person. Raises OAuth2Error for what can't be one."""
    value = data.get(name)
    if isinstance(value, bool) or not read(value) or not 0 < len(str(value)) <= MAX_ID:
        raise OAuth2Error(f"{name} is no id.")
    return str(value)


def told(data: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """What is kept of an answer: these, as text that every database takes."""
    return {
        name: _writable(value) if isinstance(value, str) else value
        for name, value in data.items()
        if name in names and isinstance(value, str | bool | int)
    }


def _writable(text: str) -> str:
    return text.encode("utf-8", "ignore").decode().replace("\0", "")[:500]
