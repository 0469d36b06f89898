"""The OAuth 2 authorization server, on Authlib: `server` and what its views need.

The token of a response is an API key (docs/adr/0014-oauth.md, also on why not allauth's provider).
"""

from oauth.server.authorization_server import server
from oauth.server.errors import (
    InteractionRequiredError,
    UnsupportedResponseTypeError,
    error_body,
)
from oauth.server.grants import DeviceGrant
from oauth.server.request import AuthlibRequest

__all__ = [
    "AuthlibRequest",
    "DeviceGrant",
    "InteractionRequiredError",
    "UnsupportedResponseTypeError",
    "error_body",
    "server",
]
