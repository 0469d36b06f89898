"""The provider class that django-allauth imports by this module name."""

from typing import Any

from allauth.account.models import EmailAddress
from allauth.socialaccount.providers.github import provider as github
from allauth.socialaccount.providers.github.views import GitHubOAuth2Adapter

from accounts.providers import StrictOAuth2Adapter, VerifiedEmailsOnly, pick_fields, validate_uid


class GitHubAdapter(StrictOAuth2Adapter, GitHubOAuth2Adapter):  # type: ignore[misc]
    pass


class GitHubProvider(VerifiedEmailsOnly, github.GitHubProvider):  # type: ignore[misc]
    oauth2_adapter_class = GitHubAdapter

    def extract_uid(self, data: dict[str, Any]) -> str:
        return validate_uid(data, lambda value: isinstance(value, int), "id")

    def extract_email_addresses(self, data: dict[str, Any]) -> list[EmailAddress]:
        return [
            EmailAddress(email=found["email"], primary=found["primary"] is True, verified=True)
            for found in data.get("emails", [])
            if found["verified"] is True
        ]

    def extract_extra_data(self, data: dict[str, Any]) -> dict[str, Any]:
        return pick_fields(data, ("id", "login", "name"))


provider_classes = [GitHubProvider]
