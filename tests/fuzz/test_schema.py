"""Whatever the OpenAPI document allows and forbids, asked of the whole application.

What it answers has to be in the document: the status, the form and the shape, and never a 5xx.
`FUZZ_EXAMPLES=1000` asks for longer, and anew each time; without it the same is asked each time.
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
from django.core.handlers.wsgi import WSGIHandler
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.python.wsgi import get_client
from schemathesis.specs.openapi.checks import (
    ignored_auth,
    negative_data_rejection,
    positive_data_acceptance,
)

from accounts.models import User
from apikeys.models import APIKey, Reason
from apikeys.services import Actor
from apikeys.tokens import Token
from oauth import codes
from oauth import services as oauth
from tests.conftest import show_who
from tests.oauth.conftest import DEVICE_GRANT

ASKED = os.environ.get("FUZZ_EXAMPLES")
# So many for each operation; and so many walks through all of them.
EXAMPLES = int(ASKED or 12)
SECRET = "what-a-service-says-for-itself-in-these-tests"

_addresses = itertools.count()
_served: list[Any] = [WSGIHandler()]


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The platform of the test that runs, asked from another network each time."""
    # How often one address may ask is none of these tests' business.
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
                # Who asks is drawn below: somebody with a good credential, more often than not.
                "with-security-parameters": False,
            },
            **({} if ASKED else {"seed": 1}),
        }
    ),
)

# Where a key belongs in what is sent.
KEY_FIELDS = {"key", "api_key", "token"}
WHO = ["whoever may", "a bearer", "a narrow key", "a page", "a service", "a stranger", "nobody"]
FORMS = ["text/plain", "multipart/form-data; boundary=x", "application/json; charset=punycode"]
FOR_SERVICES = {"verify_api_key", "validate_keys", "introspect"}


@dataclass
class Asker:
    """Whoever asks, with all that it takes to get past 401."""

    sent: dict[str, dict[str, Any]]
    make: Callable[[], tuple[APIKey, Token]]

    def dress(self, case: Any, who: str) -> dict[str, Any]:
        """What goes along with `case` when `who` asks."""
        if who == "whoever may":
            who = "a service" if operation(case) in FOR_SERVICES else "a key"
        return self.sent[who]

    def judge(self, token: str) -> str:
        """What the platform says of a key: VALID, REVOKED and so on."""
        answer = get_client(application).post("/api/v1/keys/validate", headers={"X-API-Key": token})
        code: str = answer.json.get("code") or answer.json["error"]
        return code

    def fill(self, case: Any) -> None:
        """Puts real keys, ids and codes where the document says that they belong."""
        key, token = self.make()
        if "key_id" in case.path_parameters:
            case.path_parameters["key_id"] = str(key.pk)
        if not isinstance(case.body, dict):
            return
        for name in KEY_FIELDS & set(case.body):
            case.body[name] = token.reveal()
        if "keys" in case.body:
            case.body["keys"] = [token.reveal()]
        if "client_id" in case.body:
            case.body["client_id"] = "comfy-key"
        if "grant_type" in case.body:
            case.body["grant_type"] = DEVICE_GRANT
            case.body["device_code"] = confirmed_device(key.owner)


def confirmed_device(owner: User) -> str:
    """The code of a machine that may have a key of `owner`."""
    code = codes.make()
    device = oauth.ask_for_device(
        client_id="comfy-key",
        asked=oauth.USUAL_SCOPES,
        device_code=code,
        user_code=codes.make_typed(),
    )
    oauth.approve_device(device, by=Actor(user=owner), name=f"machine {device.pk}", expires_at=None)
    return code


@pytest.fixture
def asker(transactional_db, alice, issue, settings, lane_alone) -> Iterator[Asker]:
    settings.SERVICE_SECRETS = [SECRET]
    settings.KEYS_PER_ACCOUNT = 1_000_000
    settings.KEYS_MAY_CREATE_KEYS = True
    _served.append(lane_alone)
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
            "a stranger": {"headers": {"X-API-Key": "comfyui-\xe9", "Authorization": "Basic 0"}},
            "nobody": {"headers": {}},
        },
        lambda: issue(f"key {next(numbers)}"),
    )
    _served.pop()


def asks(asker: Asker, case: Any, who: str) -> tuple[dict[str, Any], list[Any]]:
    """What goes along with `case`, and what can't be checked of the answer."""
    # What the document can't say: names are free, codes known, and keys in one place alone.
    excluded = [positive_data_acceptance]
    if operation(case) == "validate_key" and case.body == {}:
        # With a key in a header, a body that says nothing is none.
        excluded.append(negative_data_rejection)
    if who == "a page":
        # It takes a session that it did not make for an invented one.
        excluded.append(ignored_auth)
    return asker.dress(case, who), excluded


def operation(case: Any) -> str:
    name: str = case.operation.definition.raw["operationId"]
    return name


@document.parametrize()
@document.given(
    who=st.sampled_from(WHO), is_real=st.booleans(), form=st.sampled_from([None] * 7 + FORMS)
)
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_all_that_is_answered_is_documented(case, who, is_real, form, asker):
    if is_real and case.meta.generation.mode.is_positive:
        asker.fill(case)
    sent, excluded = asks(asker, case, who)
    if form is not None:
        sent = {**sent, "headers": {**sent["headers"], "Content-Type": form}}
    case.call_and_validate(**sent, excluded_checks=excluded)


def test_all_that_follows_from_an_answer_is_documented_and_deleted_is_dead(asker):
    """Walks: what is generated, rolled, fetched or listed is used, judged and deleted next."""
    walks, deleted = Counter(), []

    class Walk(document.as_state_machine()):
        def setup(self):
            # Each walk begins as the last one did.
            APIKey.objects.update(revoked_at=timezone.now(), revoked_reason=Reason.REVOKED_BY_STAFF)
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

        def validate_response(self, response, case, additional_checks=None, **sent):
            case.validate_response(
                response,
                excluded_checks=self.excluded,
                transport_kwargs=sent,
                recorder=self.recorder,
            )

    Walk.run(
        settings=settings(
            deadline=None,
            derandomize=not ASKED,
            max_examples=EXAMPLES,
            stateful_step_count=12,
            suppress_health_check=list(HealthCheck),
        )
    )
    assert walks["delete_key", 204]
    assert deleted
    assert set(deleted) == {"REVOKED"}
