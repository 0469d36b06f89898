"""Setup of the providers, for the staff pages."""

from dataclasses import dataclass

from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse

from accounts.social.adapter import SocialAccountAdapter


@dataclass(frozen=True, slots=True)
class ProviderSetup:
    """Whether a provider is set up, and what staff need to set it up."""

    name: str
    callback: str
    variables: tuple[str, str]
    register_at: str
    is_set_up: bool
    is_from_environment: bool


def setup_of_providers(request: HttpRequest) -> list[ProviderSetup]:
    """Return the setup of all supported providers, with the callback URL to register there."""
    apps = {app.provider: app for app in SocialAccountAdapter(request).list_apps(request)}
    return [
        ProviderSetup(
            name=name,
            callback=f"{settings.PUBLIC_URL}{reverse(f'{provider}_callback')}",
            variables=(f"{provider.upper()}_CLIENT_ID", f"{provider.upper()}_CLIENT_SECRET"),
            register_at=register_at,
            is_set_up=provider in apps,
            is_from_environment=provider in apps and apps[provider].pk is None,
        )
        for provider, name, register_at in (
            ("google", "Google", "https://console.cloud.google.com/auth/clients"),
            ("github", "GitHub", f"{settings.GITHUB_URL}/settings/developers"),
        )
    ]
