"""Bounds and validators of the fields that users write."""

from collections.abc import Iterable
from typing import Final

from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from apikeys import allowed_networks, scopes, tokens
from core import text, validators

MAX_NAME: Final = 80
MAX_DESCRIPTION: Final = 500
# One character can fold and compose to several.
MAX_FOLDED: Final = MAX_NAME * 12


def validate_name(name: str) -> None:
    validators.validate_name(name)


def validate_description(description: str) -> None:
    if text.has_controls(description, allow="\r\n\t"):
        raise ValidationError(
            _("This description has an invisible control character. Remove it."), code="controls"
        )
    validators.reject_api_key(description)


def validate_scopes(text: str) -> None:
    try:
        scopes.parse(text)
    except ValueError as error:
        raise ValidationError(
            _("There is no scope “%(scope)s”. The scopes are %(all)s and proxy:<provider>."),
            code="scope",
            params={"scope": tokens.redact(str(error)[:80]), "all": ", ".join(scopes.ALL)},
        ) from None


def read_allowed_networks(texts: Iterable[str]) -> str:
    """Return networks as APIKey stores them. Raise ValidationError for one that is invalid."""
    networks = [_read_network(text) for text in texts]
    if len(networks) > allowed_networks.MAX_NETWORKS:
        raise ValidationError(
            _("A key can have %(limit)d networks at most. Combine some of them."),
            code="networks",
            params={"limit": allowed_networks.MAX_NETWORKS},
        )
    return allowed_networks.join(networks)


def validate_allowed_networks(stored: str) -> None:
    if read_allowed_networks(stored.split()) != stored:
        raise ValidationError(_("These networks are not in their shortest form."), code="networks")


def _read_network(text: str) -> str:
    try:
        return allowed_networks.normalize(text)
    except allowed_networks.HostBitsError as error:
        raise ValidationError(
            _(
                "“%(network)s” is an address with a prefix length. For that address only, enter "
                "%(host)s; for its whole network, enter %(whole)s."
            ),
            code="networks",
            params={"network": text.strip(), "host": error.host, "whole": error.network},
        ) from None
    except ValueError:
        raise ValidationError(
            _(
                "“%(network)s” is not a network. Enter an IP address or a network, such as "
                "203.0.113.7, 203.0.113.0/24 or 2001:db8::/48."
            ),
            code="networks",
            params={"network": tokens.redact(text.strip()[:80])},
        ) from None
