"""Views that do nothing, and one that reads one row: what Django and REST framework cost."""

from bench.peers.startproject import *  # noqa: F403
from bench.peers.startproject import INSTALLED_APPS

INSTALLED_APPS += ["rest_framework", "rest_framework.authtoken"]
ROOT_URLCONF = "bench.peers.floors.urls"
REST_FRAMEWORK: dict[str, list[str]] = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": [],
}
