"""The base class of endpoints of Comfy API."""

from apikeys import scopes
from apikeys.api.authentication import KeyAuthentication
from apikeys.api.base import BaseView


class KeyRequiredView(BaseView):
    """An invalid key is reported before any other error."""

    authentication_classes = [KeyAuthentication]
    scope = scopes.SIGN_IN
    parameters: frozenset[str] | None = None
