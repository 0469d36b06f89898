from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler

from apikeys.cache.middleware import ValidationCache
from apikeys.cache.setup import install
from apikeys.cache.versions import VersionTable


@pytest.fixture
def validation_cache(settings: Any, own_version_table: VersionTable) -> ValidationCache:
    """Return the validation cache with a separate version table and without a listener.

    A listener runs until the process ends, and its connection blocks dropping the database.
    """
    settings.MULTI_HOST = False
    cache = install(WSGIHandler())
    assert isinstance(cache, ValidationCache)
    return cache
