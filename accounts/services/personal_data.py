"""Export of an account's personal data, and signals for apps that store some.

Apps connect to these signals, so that accounts import none of them:

`exporting_data`: user=…; a receiver returns a dictionary of the data that its app stores. A list
that may be long is an iterator, which reads its rows when it is written.
`account_deleting`: user=…, client_ip=…; sent inside the transaction that deletes the account. A
receiver deletes or anonymizes what its app stores.
"""

from typing import Any, cast

from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from allauth.usersessions.models import UserSession
from django.dispatch import Signal

from accounts.models import User
from audit.models import Event
from core import batches

exporting_data = Signal()
account_deleting = Signal()


def personal_data(user: User) -> dict[str, Any]:
    """Return all stored data of `user`, without secrets, as values for core.json_stream."""
    # One piece: the sections of the export, in their order.
    data: dict[str, Any] = {
        "account": _account(user),
        "email_addresses": list(
            EmailAddress.objects.filter(user=user).values("email", "verified", "primary")
        ),
        "logins": [_login(login) for login in SocialAccount.objects.filter(user=user)],
        "factors": [_factor(factor) for factor in Authenticator.objects.filter(user=user)],
        "sessions": list(
            UserSession.objects.filter(user=user).values(
                "created_at", "last_seen_at", "ip", "user_agent"
            )
        ),
        "events": batches.read(
            Event.objects.filter(account=user),
            "at",
            "action",
            "public_id",
            "via",
            "address",
            "detail",
            order=["at", "id"],
            newest_first=True,
        ),
    }
    for _receiver, part in exporting_data.send(User, user=user):
        data.update(cast("dict[str, Any]", part))
    return data


def _account(user: User) -> dict[str, Any]:
    return {
        "id": user.pk,
        "email": user.email,
        "name": user.name,
        "language": user.language,
        "browser_language": user.browser_language,
        "notices": user.notices,
        "joined_at": user.date_joined,
        "last_login_at": user.last_login,
        "has_password": user.has_usable_password(),
    }


def _login(login: SocialAccount) -> dict[str, Any]:
    return {
        "provider": login.provider,
        "id_there": login.uid,
        "connected_at": login.date_joined,
        "last_used_at": login.last_login,
        "what_it_told": login.extra_data,
    }


def _factor(factor: Authenticator) -> dict[str, Any]:
    return {
        "type": factor.type,
        "name": factor.data.get("name", ""),
        "added_at": factor.created_at,
        "last_used_at": factor.last_used_at,
    }
