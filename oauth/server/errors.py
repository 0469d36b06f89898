"""OAuth errors: their JSON bodies and descriptions, and the error classes that Authlib lacks."""

from typing import Final

from authlib.oauth2 import OAuth2Error

from core.causes import Cause

# Descriptions for errors with names that explain little. English, like the whole API, and ASCII
# (RFC 6749 §5.2).
DESCRIPTIONS: Final = {
    "access_denied": "The user denied the request, or has no permission to create API keys.",
    "authorization_pending": "The request has not been confirmed yet. Try again in a moment.",
    "expired_token": "The request was not confirmed in time. Start again.",
    "invalid_client": (
        "This client is unknown. The client id of a website is its origin, and an "
        "administrator has to list it."
    ),
    "invalid_grant": "This code is unknown, has expired or was already used. Start again.",
    "invalid_request": "This request is invalid.",
    "invalid_scope": (
        "Unknown scope. The scopes are customers:read, proxy:*, proxy:<provider> and keys:manage."
    ),
    "invalid_target": "This resource is not on this site.",
    "slow_down": "Too many requests. Wait longer between requests.",
    "temporarily_unavailable": "Temporarily unavailable. Try again shortly.",
    "unauthorized_client": "This client may not use this grant type.",
    "unsupported_grant_type": (
        "The supported grant types are authorization_code and "
        "urn:ietf:params:oauth:grant-type:device_code."
    ),
    "unsupported_response_type": "The only supported response type is code.",
}


class UnsupportedResponseTypeError(OAuth2Error):  # type: ignore[misc]
    """RFC 6749 §4.1.2.1."""

    error = "unsupported_response_type"


class InvalidTargetError(OAuth2Error):  # type: ignore[misc]
    """RFC 8707 §2."""

    error = "invalid_target"


class InteractionRequiredError(OAuth2Error):  # type: ignore[misc]
    """For `prompt=none` (OpenID Connect Core §3.1.2.6), whether or not a user is logged in."""

    error = "interaction_required"


class TemporarilyUnavailableError(OAuth2Error):  # type: ignore[misc]
    """RFC 6749 §4.1.2.1, with status 503."""

    error = "temporarily_unavailable"
    status_code = 503

    def __init__(self, cause: Cause, description: str | None = None) -> None:
        super().__init__(description)
        self.cause = cause


def error_body(error: str, description: str = "") -> dict[str, str]:
    """Return the JSON body of an error (RFC 6749 §5.2), with ComfyUI's field `message`."""
    description = description or DESCRIPTIONS.get(error, "")
    return {
        "error": error,
        "error_description": to_ascii(description),
        "message": description,
    }


def to_ascii(description: str) -> str:
    """Return `description` in the characters of an error_description (RFC 6749 §5.2)."""
    plain = description.translate(_QUOTES).encode("ascii", "replace").decode()
    return "".join(mark if " " <= mark <= "~" and mark not in '"\\' else "'" for mark in plain)


_QUOTES: Final = str.maketrans({"“": "'", "”": "'", "’": "'", "…": "..."})
