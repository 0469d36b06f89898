"""Django OAuth Toolkit with introspection (RFC 7662), as in its tutorial and its page "Separate
Resource Server".
"""

from bench.peers.startproject import *  # noqa: F403
from bench.peers.startproject import INSTALLED_APPS

INSTALLED_APPS += ["oauth2_provider"]
ROOT_URLCONF = "bench.peers.oauth_toolkit.urls"
OAUTH2_PROVIDER = {
    "SCOPES": {"read": "Read", "write": "Write", "introspection": "Introspect tokens"},
}
