"""Template filters for connected social logins, also of providers that are not set up."""

from typing import Any

from allauth.socialaccount.models import SocialAccount
from allauth.socialaccount.providers import registry
from django import template

register = template.Library()


@register.filter
def provider_name(login: SocialAccount) -> str:
    """Return the provider's name, such as GitHub."""
    return str(registry.get_class(login.provider).name)


@register.filter
def provider_account(login: SocialAccount) -> Any:
    """Return the account at the provider, shown as a name or an email."""
    # `login.get_provider_account()` would need the OAuth client, which staff may have removed.
    return registry.get_class(login.provider).account_class(login)
