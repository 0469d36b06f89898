"""Storage of Django's messages: a cookie, so that an anonymous user needs no session."""

from django.conf import settings
from django.contrib.messages.storage.cookie import CookieStorage
from django.contrib.messages.storage.fallback import FallbackStorage
from django.contrib.messages.storage.session import SessionStorage


class _NamedCookieStorage(CookieStorage):
    # Cookies ignore ports: two platforms on one host would show each other's messages.
    cookie_name = settings.SESSION_COOKIE_NAME.replace("session", "messages")


class Storage(FallbackStorage):
    """A signed cookie; messages that do not fit are stored in the session."""

    storage_classes = (_NamedCookieStorage, SessionStorage)
