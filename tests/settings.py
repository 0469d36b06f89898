"""The platform's own settings, on stores of the tests' own, with cheap hashes.

Whatever the person who runs the tests has in the environment stays out of them.
"""

import os
import tempfile

_OURS = (
    "ALLOWED_", "ARGON2_", "CACHE_", "DATABASE_", "DEBUG", "DEFAULT_FROM", "EMAIL", "GITHUB_",
    "GOOGLE_", "GUESSES_", "HOST", "HSTS_", "KEY", "LEAKED_", "LOG_LEVEL", "NEW_KEYS_", "PASSWORD",
    "PORT", "PRODUCTION", "PUBLIC_", "SECRET_KEY", "SECURITY_", "SITE_", "STAFF_", "STORE_", "TLS",
    "TOMBSTONES_", "TRUSTED_", "USAGE_", "VAR_", "WORKERS",
)  # fmt: skip
for _name in [name for name in os.environ if name.startswith(_OURS)]:
    del os.environ[_name]

_var = tempfile.TemporaryDirectory(prefix="comfyui-keys-tests-")
os.environ.update(
    VAR_DIR=_var.name,
    # One Argon2id pass in microseconds: what is tested is the logic around it.
    ARGON2_MEMORY_KIB="8",
    ARGON2_PASSES="1",
    # Uses are written when a test says so, not from a thread of their own.
    USAGE_FLUSH_INTERVAL="0",
    # All tests come from one address, some with thousands of keys that are none.
    GUESSES_PER_MINUTE="0",
)
if _url := os.environ.get("TEST_DATABASE_URL"):
    os.environ["DATABASE_URL"] = _url

from config.settings import *  # noqa: E402, F403
from config.settings import DATABASES, STATIC_ROOT, STORAGES, VAR  # noqa: E402

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# Names as they are: no files have been collected, and none need be.
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
STATIC_ROOT.mkdir()
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # A file, as in use: threads share it, and its journal is the real one.
    DATABASES["default"]["TEST"] = {"NAME": str(VAR / "test.sqlite3")}
DATABASES["default"]["OPTIONS"].pop("pool", None)
# Each test proves for itself; tests/apikeys/test_proofs.py shares.
SHARED_PROOFS_FOLDER = None
