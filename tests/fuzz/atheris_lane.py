"""Coverage-guided: whatever headers come, the lane says what Django says, and never raises.

    mkdir -p var/fuzz/lane
    .venv/bin/python -m tests.fuzz.atheris_lane -runs=100000 var/fuzz/lane

The folder keeps what reached further, for the next time; `-runs=-1` goes on until Ctrl-C. Both are
the real ones, on a database made for this.
"""

import os
import sys

from tests.fuzz import guided

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"

with guided.instrumented():
    import fastlane.wsgi  # noqa: F401 (so that all others get the instrumented one)

import django

django.setup()

from django.core.handlers.wsgi import WSGIHandler  # noqa: E402 (Django has to be set up first)
from django.core.management import call_command  # noqa: E402
from django.test.utils import setup_databases, setup_test_environment  # noqa: E402

from config.lane import in_front_of  # noqa: E402
from tests.fastlane.test_lane import say, twin  # noqa: E402
from tests.fuzz.lane import asked, make_tokens, seeds  # noqa: E402


def main() -> None:
    setup_test_environment()
    setup_databases(verbosity=0, interactive=False)
    call_command("createcachetable", verbosity=0)
    known = make_tokens()
    handler = WSGIHandler()
    lane = in_front_of(handler)

    def judge(data: bytes) -> None:
        environ = asked(data, known)
        expected = say(handler, twin(environ))
        for _time in ("cold", "warm"):
            assert say(lane, twin(environ)) == expected

    guided.run(judge, seeds(), sys.argv)


if __name__ == "__main__":
    main()
