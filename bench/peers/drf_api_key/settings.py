"""djangorestframework-api-key, as its "Quickstart" and "User guide" say."""

from bench.peers.startproject import *  # noqa: F403
from bench.peers.startproject import INSTALLED_APPS

INSTALLED_APPS += ["rest_framework", "rest_framework_api_key"]
ROOT_URLCONF = "bench.peers.drf_api_key.urls"
REST_FRAMEWORK = {"DEFAULT_PERMISSION_CLASSES": ["rest_framework_api_key.permissions.HasAPIKey"]}
