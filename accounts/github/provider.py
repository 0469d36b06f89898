"""The provider that django-allauth finds for this application, by this module's name."""

from typing import Any

from allauth.account.models import EmailAddress
from allauth.socialaccount.providers.github import provider as github
from allauth.socialaccount.providers.github.views import GitHubOAuth2Adapter

from accounts.providers import Careful, known, told


class GitHubAdapter(Careful, GitHubOAuth2Adapter):  # type: ignore[misc]
    pass


class GitHubProvider(github.GitHubProvider):  # type: ignore[misc]
    oauth2_adapter_class = GitHubAdapter

    def extract_uid(self, data: dict[str, Any]) -> str:
        return known(data, lambda value: isinstance(value, int), "id")

    def extract_email_addresses(self, data: dict[str, Any]) -> list[EmailAddress]:
        return [
            EmailAddress(
                email=found["email"],
                primary=found["primary"] is True,
                verified=found["verified"] is True,
            )
            for found in data.get("emails", [])
        ]

    def extract_extra_data(self, data: dict[str, Any]) -> dict[str, Any]:
        return told(data, ("id", "login", "name"))


provider_classes = [GitHubProvider]
