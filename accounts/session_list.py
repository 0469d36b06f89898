"""allauth's user sessions app, with stored session keys instead of session ids."""

from typing import Any

from allauth.account.signals import password_changed, password_set, user_logged_in
from allauth.usersessions.apps import UserSessionsConfig as AllauthConfig
from django.db.models.signals import post_init
from django.http import HttpRequest

from accounts.sessions import SessionStore, read_stored_key


class UserSessionsConfig(AllauthConfig):  # type: ignore[misc]  # allauth ships no types
    """Replaces allauth's config, whose receivers would write session ids into the table."""

    def ready(self) -> None:
        from allauth.usersessions.models import UserSession

        # allauth looks sessions up and ends them by this attribute.
        post_init.connect(_read_key, sender=UserSession)
        user_logged_in.connect(_on_login)
        password_set.connect(_on_new_password)
        password_changed.connect(_on_new_password)


def _read_key(sender: Any, *, instance: Any, **_: Any) -> None:
    if "session_key" not in instance.get_deferred_fields():
        instance.session_key = read_stored_key(instance.session_key)


def _on_login(sender: Any, *, request: HttpRequest, **_: Any) -> None:
    from allauth.usersessions.models import UserSession

    UserSession.objects.purge_and_list(request.user)
    _on_new_password(sender, request=request)


def _on_new_password(sender: Any, *, request: HttpRequest, **_: Any) -> None:
    # The session has a new id by now.
    from allauth.usersessions.models import UserSession

    UserSession.objects.create_from_request(request, session=SessionStore.by_row(request.session))
