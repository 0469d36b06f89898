"""Requests generated from the OpenAPI document, valid and invalid, to the whole application.

Every response must be in the document, with status, content type and schema, and never be a 5xx.
`FUZZ_EXAMPLES=1000` tests more, at random; without it the same examples are used each time.
"""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from django.conf import settings as project
from django.core.cache import caches
from django.core.handlers.wsgi import WSGIHandler
from django.test import Client
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.python.wsgi import get_client
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from accounts.models import User
from apikeys.models import APIKey
from apikeys.tokens import Token
from audit.services import Actor
from oauth import codes
from oauth import services as oauth
from tests.conftest import show_who
from tests.oauth.conftest import DEVICE_GRANT

ASKED = os.environ.get("FUZZ_EXAMPLES")
# The number of examples of each operation, and of walks through all operations.
EXAMPLES = int(ASKED or 12)
SECRET = "what-a-service-says-for-itself-in-these-tests"

_addresses = itertools.count()
_served: list[Any] = [WSGIHandler()]


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Call the platform of the current test, with another client network each time."""
    # Rate limits are not tested here.
    high, low = divmod(next(_addresses), 1 << 16)
    environ["REMOTE_ADDR"] = f"2001:db8:{high:x}:{low:x}::1"
    return _served[-1](environ, start_response)


document = schemathesis.openapi.from_wsgi(
    "/api/schema?format=json",
    application,
    config=SchemathesisConfig.from_dict(
        {
            "base-url": project.PUBLIC_URL,
            "generation": {
                "max-examples": EXAMPLES,
                "deterministic": not ASKED,
                # Credentials are drawn below, valid ones more often.
                "with-security-parameters": False,
            },
            **({} if ASKED else {"seed": 1}),
        }
    ),
)

# Fields and parameters that contain a key.
KEY_FIELDS = {"key", "api_key", "token"}
WHO = [
    "a permitted credential",
    "a bearer",
    "a narrow key",
    "a page",
    "a service",
    "an invalid credential",
    "nobody",
]
FORMS = ["text/plain", "multipart/form-data; boundary=x", "application/json; charset=punycode"]
FOR_SERVICES = {"verify_api_key", "validate_keys", "introspect"}


@dataclass
class Asker:
    """The credentials that get past 401."""

    sent: dict[str, dict[str, Any]]
    make: Callable[[], tuple[APIKey, Token]]

    def dress(self, case: Any, who: str) -> dict[str, Any]:
        """Return what is added to `case` for the credential `who`."""
        if who == "a permitted credential":
            who = "a service" if operation(case) in FOR_SERVICES else "a key"
        return self.sent[who]

    def judge(self, token: str) -> str:
        """Return the platform's code for a key: VALID, REVOKED and so on."""
        answer = get_client(application).post("/api/v1/keys/validate", headers={"X-API-Key": token})
        code: str = answer.json.get("code") or answer.json["error"]
        return code

    def fill(self, case: Any) -> None:
        """Fill in real keys, ids and codes where the document has them."""
        key, token = self.make()
        if "key_id" in case.path_parameters:
            case.path_parameters["key_id"] = str(key.pk)
        if not isinstance(case.body, dict):
            return
        for name in KEY_FIELDS & set(case.body):
            case.body[name] = token.reveal()
        if "keys" in case.body:
            case.body["keys"] = [token.reveal()]
        if "ids" in case.body:
            case.body["ids"] = [str(key.pk)]
        if "client_id" in case.body:
            case.body["client_id"] = "comfy-key"
        if "grant_type" in case.body:
            case.body["grant_type"] = DEVICE_GRANT
            case.body["device_code"] = confirmed_device(key.owner)


def confirmed_device(owner: User) -> str:
    """Return the code of a device that may fetch a key of `owner`."""
    code = codes.generate_code()
    device = oauth.create_device_request(
        client_id="comfy-key",
        requested=oauth.DEFAULT_SCOPES,
        device_code=code,
        user_code=codes.generate_user_code(),
    )
    oauth.approve_device(device, by=Actor(user=owner), name=f"machine {device.pk}", expires_at=None)
    return code


@pytest.fixture
def asker(transactional_db, alice, issue, settings, validation_cache) -> Iterator[Asker]:
    settings.SERVICE_SECRETS = [SECRET]
    settings.KEYS_PER_ACCOUNT = 1_000_000
    settings.KEYS_MAY_CREATE_KEYS = True
    _served.append(validation_cache)
    numbers = itertools.count()
    good = issue("good")[1].reveal()
    narrow = issue("narrow", scopes=["proxy:bfl"])[1].reveal()
    browser = Client()
    browser.force_login(alice)
    show_who(browser, alice)
    csrf = "a" * 32
    yield Asker(
        {
            "a key": {"headers": {"X-API-Key": good}},
            "a bearer": {"headers": {"Authorization": f"Bearer {good}"}},
            "a narrow key": {"headers": {"X-API-Key": narrow}},
            "a page": {
                "headers": {"X-CSRFToken": csrf},
                "cookies": {
                    project.SESSION_COOKIE_NAME: browser.session.session_key,
                    project.CSRF_COOKIE_NAME: csrf,
                },
            },
            "a service": {
                "headers": {"Authorization": f"Bearer {SECRET}", "X-Comfy-Admin-Secret": SECRET}
            },
            "an invalid credential": {
                "headers": {"X-API-Key": "comfyui-\xe9", "Authorization": "Basic 0"}
            },
            "nobody": {"headers": {}},
        },
        lambda: issue(f"key {next(numbers)}"),
    )
    _served.pop()


def asks(
    asker: Asker, case: Any, who: str, form: str | None = None
) -> tuple[dict[str, Any], list[Any]]:
    """Return what is added to `case`, and the checks that do not apply to the response.

    form: a Content-Type to send instead of the case's own.
    """
    sent, excluded = asker.dress(case, who), []
    if form is not None:
        sent = {**sent, "headers": {**sent["headers"], "Content-Type": form}}
    # No schema can say that a time is in the future, that a name is unused and visible, that a
    # network has no host bits, that a text is a media type, or that a key was not rotated before.
    is_making = operation(case) in {"generate_key", "change_key", "roll_key", "create_upload"}
    # Nor that the name of a file contains no key.
    is_named = operation(case) in {"upload_file", "download_file"}
    # Nor that a cursor comes from a page and needs a limit, that two lists have one length, or
    # which time zones there are.
    is_related = {"cursor", "time_zone"} & set(case.query or {}) or (
        isinstance(case.body, dict) and "client_ips" in case.body
    )
    # Unknown parameters are ignored (RFC 6749 §3.2), but for those like "expires_in" and "scopes".
    is_misspelt = operation(case) == "device_code" and any(
        name.startswith(("expir", "scop")) and name != "scope" for name in case.body or ()
    )
    # RFC 6749 §5.2 requires 400 for an unknown code, and all codes here are invented.
    is_invented = operation(case) == "token"
    # OpenAPI can't say "in a header or in the body, and not in both".
    is_double = operation(case) == "validate_key" and {"X-API-Key", "Authorization"} & (
        set(sent["headers"]) | set(case.headers)
    )
    # The document has one content type for each body; this is another.
    if (
        is_making
        or is_named
        or is_related
        or is_misspelt
        or is_invented
        or is_double
        or form is not None
    ):
        excluded.append(positive_data_acceptance)
    if who == "a page":
        # Schemathesis takes a session that it did not make for an invalid one.
        excluded.append(ignored_auth)
    return sent, excluded


def operation(case: Any) -> str:
    name: str = case.operation.definition.raw["operationId"]
    return name


@document.parametrize()
@document.given(
    who=st.sampled_from(WHO), is_real=st.booleans(), form=st.sampled_from([None] * 7 + FORMS)
)
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_every_response_is_documented(case, who, is_real, form, asker):
    if is_real and case.meta.generation.mode.is_positive:
        asker.fill(case)
    sent, excluded = asks(asker, case, who, form)
    case.call_and_validate(**sent, excluded_checks=excluded)


def test_walks_are_documented_and_deleted_keys_are_refused(asker):
    """Walks: created, rotated, fetched or listed keys are used, validated and deleted next.

    At its end each walk deletes the keys that it has created and left, so that some are deleted
    whichever links the walks follow.
    """
    walks, deleted = Counter(), []
    # The tokens of uploads would be drawn, and be invalid.
    walked = document.exclude(path_regex="^/customers/storage/")

    class Walk(walked.as_state_machine()):
        def setup(self):
            # Each walk starts in the same state: Hypothesis repeats walks, and a name or an
            # Idempotency-Key of an earlier one would be refused, or a limit reached.
            APIKey.objects.all().delete()
            caches["shared"].clear()
            self.tokens = {}

        def get_call_kwargs(self, case):
            sent, self.excluded = asks(asker, case, "a page")
            return sent

        def after_call(self, response, case):
            super().after_call(response, case)
            walks[operation(case), response.status_code] += 1
            if response.status_code == 201:
                made = response.json()["api_key"]
                self.tokens[made["id"]] = made["plaintext_key"]
            if response.status_code == 204 and operation(case) == "delete_key":
                token = self.tokens.pop(case.path_parameters["key_id"], None)
                if token is not None:
                    deleted.append(asker.judge(token))

        def teardown(self):
            page, client = asker.sent["a page"], get_client(application)
            for name, value in page["cookies"].items():
                client.set_cookie(name, value)
            for key_id, token in self.tokens.items():
                path = f"/customers/api-keys/{key_id}"
                answer = client.delete(path, headers=page["headers"])
                # A walk may have rotated it without an overlap.
                assert answer.status_code in {204, 404}
                deleted.append(asker.judge(token))
            super().teardown()

        def validate_response(self, response, case, additional_checks=None, **sent):
            case.validate_response(
                response,
                excluded_checks=self.excluded,
                transport_kwargs=sent,
                recorder=self.recorder,
            )

    for rounds in (1, 4):
        Walk.run(
            settings=settings(
                deadline=None,
                derandomize=not ASKED,
                max_examples=EXAMPLES * rounds,
                stateful_step_count=20,
                suppress_health_check=list(HealthCheck),
            )
        )
        # Few walks follow the link from a new key to its deletion.
        if walks["delete_key", 204]:
            break
    assert walks["delete_key", 204]
    assert deleted
    assert set(deleted) == {"REVOKED"}
