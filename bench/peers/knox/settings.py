"""django-rest-knox, as its "Installation" and "Authentication" pages say."""

from bench.peers.startproject import *  # noqa: F403
from bench.peers.startproject import INSTALLED_APPS

INSTALLED_APPS += ["rest_framework", "knox"]
ROOT_URLCONF = "bench.peers.knox.urls"
REST_FRAMEWORK = {"DEFAULT_AUTHENTICATION_CLASSES": ["knox.auth.TokenAuthentication"]}
