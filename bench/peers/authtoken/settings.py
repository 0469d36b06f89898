"""Django REST framework's own tokens, as its page "Authentication" says."""

from bench.peers.startproject import *  # noqa: F403
from bench.peers.startproject import INSTALLED_APPS

INSTALLED_APPS += ["rest_framework", "rest_framework.authtoken"]
ROOT_URLCONF = "bench.peers.authtoken.urls"
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.TokenAuthentication"]
}
