"""Shared code of the OAuth providers: requests with bounds, and strict parsing of responses."""

import re
import time
from collections.abc import Callable
from typing import Any, Final

import requests
from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from allauth.socialaccount.providers.oauth2.views import OAuth2Adapter
from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

# Longest user id of a provider that the database column takes.
MAX_UID = 191
# Bounds on a whole response. A socket timeout bounds each read only, so that a response sent byte
# by byte could occupy a thread forever.
MAX_RESPONSE_BYTES: Final = 256 * 1024
MAX_RESPONSE_SECONDS: Final = 10.0
# The OAuth error code in allauth's exception message, which quotes the response (JSON or form).
_OAUTH_ERROR: Final = re.compile(r"""(?:"error"\s*:\s*"|\berror=)(?P<code>[\w.-]+)(?=["&'])""")
# Exceptions raised by parsing a response of an unexpected shape.
_MALFORMED: Final = (
    AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError,
)  # fmt: skip


class ProviderError(OAuth2Error):  # type: ignore[misc]
    """A provider refused a request, or its response is invalid.

    code: the OAuth error code (RFC 6749 §5.2) or the HTTP status, for the log and for staff.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class StrictOAuth2Adapter(OAuth2Adapter):  # type: ignore[misc]
    """Mixin before allauth's adapter of a provider: fixed callback URL, ProviderError on errors."""

    def get_callback_url(self, request: HttpRequest, app: Any) -> str:
        """Return the callback URL below PUBLIC_URL, independent of the Host header."""
        return f"{settings.PUBLIC_URL}{reverse(f'{self.provider_id}_callback')}"

    def get_access_token_data(
        self, request: HttpRequest, app: Any, client: Any, pkce_code_verifier: str | None = None
    ) -> Any:
        try:
            return _parse(
                lambda: super(StrictOAuth2Adapter, self).get_access_token_data(
                    request, app, client, pkce_code_verifier=pkce_code_verifier
                )
            )
        except ProviderError:
            raise
        except OAuth2Error as error:
            found = _OAUTH_ERROR.search(str(error))
            status = getattr(request, "provider_status", "unreadable")
            raise ProviderError(
                "No token.", code=found["code"] if found else str(status)
            ) from error

    def parse_token(self, data: Any) -> Any:
        return _parse(lambda: super(StrictOAuth2Adapter, self).parse_token(data))

    def complete_login(self, request: HttpRequest, app: Any, token: Any, **kwargs: Any) -> Any:
        return _parse(
            lambda: super(StrictOAuth2Adapter, self).complete_login(request, app, token, **kwargs)
        )


def _parse[Result](read: Callable[[], Result]) -> Result:
    try:
        return read()
    except requests.RequestException:
        # requests' JSONDecodeError is also a ValueError.
        raise
    except _MALFORMED as error:
        raise ProviderError("The answer can't be read.", code="unreadable") from error


class VerifiedEmailsOnly:
    """Mixin before allauth's provider that drops unverified emails.

    allauth would look up accounts by them, and add them to those of `extract_email_addresses`.
    """

    def extract_common_fields(self, data: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = super().extract_common_fields(data)  # type: ignore[misc]
        return {name: value for name, value in found.items() if not name.startswith("email")}


class BoundedAdapter(HTTPAdapter):
    """Transport adapter that bounds the size and the duration of a response."""

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        ends_at = time.monotonic() + MAX_RESPONSE_SECONDS
        response = super().send(*args, **kwargs)
        response.raw = _BoundedBody(response.raw, ends_at)
        return response


class _BoundedBody:
    """The part of urllib3's response API that requests uses to read a whole body."""

    def __init__(self, body: Any, ends_at: float) -> None:
        self._body = body
        self._ends_at = ends_at
        self._left = MAX_RESPONSE_BYTES

    def read(self, amount: int) -> bytes:
        try:
            # `read` would block until all of `amount` has arrived.
            found: bytes = self._body.read1(amount, decode_content=True)
        except HTTPError as error:
            raise requests.ConnectionError(error) from error
        self._left -= len(found)
        if self._left < 0:
            raise requests.exceptions.ContentDecodingError("The answer is too long.")
        if found and time.monotonic() > self._ends_at:
            raise requests.ReadTimeout("The answer takes too long.")
        return found

    def close(self) -> None:
        self._body.close()

    def release_conn(self) -> None:
        self._body.release_conn()


def validate_uid(data: dict[str, Any], is_valid: Callable[[Any], bool], name: str) -> str:
    """Return the provider's user id in `data[name]`. Raise ProviderError if it is not valid.

    is_valid: checks the type, which differs between providers.
    """
    value = data.get(name)
    if isinstance(value, bool) or not is_valid(value) or not 0 < len(str(value)) <= MAX_UID:
        raise ProviderError(f"{name} is no id.", code="unreadable")
    return str(value)


def pick_fields(data: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return the values of `names` in `data`, as text that every database can store."""
    return {
        name: _storable(value) if isinstance(value, str) else value
        for name, value in data.items()
        if name in names and isinstance(value, str | bool | int)
    }


def _storable(text: str) -> str:
    return text.encode("utf-8", "ignore").decode().replace("\0", "")[:500]
