"""Coverage-guided: for any headers the validation cache answers as Django does, and never raises.

    mkdir -p var/fuzz/cache
    .venv/bin/python -m tests.fuzz.atheris_cache -runs=100000 var/fuzz/cache

The folder keeps inputs that reached new code, for the next run; `-runs=-1` runs until Ctrl-C. Both
are the real ones, on a temporary database.
"""

import os
import sys

from tests.fuzz import guided

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"

with guided.instrumented():
    import apikeys.cache.middleware  # noqa: F401 (so that other modules import the instrumented one)

import django

django.setup()

from django.core.handlers.wsgi import WSGIHandler  # noqa: E402 (Django has to be set up first)
from django.core.management import call_command  # noqa: E402
from django.test.utils import setup_databases, setup_test_environment  # noqa: E402

from apikeys.cache.setup import install  # noqa: E402
from tests.apikeys.cache.test_middleware import get_response, twin  # noqa: E402
from tests.fuzz.byte_requests import as_request, make_tokens, seeds  # noqa: E402


def main() -> None:
    setup_test_environment()
    setup_databases(verbosity=0, interactive=False)
    call_command("createcachetable", verbosity=0)
    known = make_tokens()
    handler = WSGIHandler()
    cache = install(handler)

    def check(data: bytes) -> None:
        environ = as_request(data, known)
        expected = get_response(handler, twin(environ))
        for _time in ("cold", "warm"):
            assert get_response(cache, twin(environ)) == expected

    guided.run(check, seeds(), sys.argv)


if __name__ == "__main__":
    main()
