"""Settings of the tests: a temporary database, cheap hashes, no variables of the environment."""

import os
import re
import tempfile
from pathlib import Path

# The variables in docs/settings.md, with their former names.
_DOCUMENT = Path(__file__).parents[1] / "docs" / "settings.md"
for _name in re.findall(r"`([A-Z][A-Z0-9_]+)`", _DOCUMENT.read_text()):
    for _variable in (_name, f"{_name}_FILE"):
        os.environ.pop(_variable, None)

_var = tempfile.TemporaryDirectory(prefix="comfyui-keys-tests-")
os.environ.update(
    VAR_DIR=_var.name,
    # An Argon2id pass takes microseconds: the logic around it is tested.
    ARGON2_MEMORY_KIB="8",
    ARGON2_PASSES="1",
    # No thread writes counted uses: tests do.
    USAGE_FLUSH_INTERVAL="0",
    # All tests have one client IP, some with thousands of invalid keys.
    GUESSES_PER_MINUTE="0",
)
if _url := os.environ.get("TEST_DATABASE_URL"):
    os.environ["DATABASE_URL"] = _url

from config.settings import *  # noqa: E402, F403
from config.settings import CACHES as PLATFORM_CACHES  # noqa: E402
from config.settings import DATABASES, STATIC_ROOT, STORAGES, VAR  # noqa: E402

# Rate limits are counted in memory, but where the fixture `database_cache` is used.
CACHES = {
    **PLATFORM_CACHES,
    "shared": {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "OPTIONS": {"MAX_ENTRIES": 100_000},
    },
}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# Without a manifest, which only collectstatic writes.
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
STATIC_ROOT.mkdir()
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # A file, as in production: threads share it, and it has a WAL. Nothing waits for the disk: only
    # a crash of the machine can tell the difference.
    DATABASES["default"]["TEST"] = {"NAME": str(VAR / "test.sqlite3")}
    DATABASES["default"]["OPTIONS"]["init_command"] += "PRAGMA synchronous=OFF;"
DATABASES["default"]["OPTIONS"].pop("pool", None)
# Tests share no verified hashes, except in tests/apikeys/cache/test_shared_verified.py.
SHARED_VERIFIED_FOLDER = None
