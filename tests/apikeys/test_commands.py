"""The management commands: through the services, secrets on standard output only when asked for."""

from io import StringIO

import pytest
from django.core.management import (
    BaseCommand,
    CommandError,
    call_command,
    load_command_class,
)

from apikeys import services
from apikeys.api.serializers import NewAPIKeySerializer
from apikeys.models import APIKey
from apikeys.services import VerdictCode
from audit.models import Event


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def test_issue_key_prints_the_token_alone(alice):
    printed = run("issue_key", "Alice@Example.org", "--name", "build box")
    assert printed == printed.strip() + "\n"
    verdict = services.validate(printed)
    assert verdict.code is VerdictCode.VALID
    assert verdict.key.name == "build box"
    assert Event.objects.get().via == "command"


def test_issue_key_can_expire(alice):
    run("issue_key", alice.email, "--name", "guest", "--expires-in-days", "7")
    key = APIKey.objects.get()
    assert 6 < (key.expires_at - key.created_at).total_seconds() / 86400 < 8
    run("issue_key", alice.email, "--name", "dated", "--expires-at", "2099-12-31")
    assert APIKey.objects.get(name="dated").expires_at.isoformat() == "2099-12-31T23:59:59+00:00"


def test_the_options_of_issue_key_are_named_as_the_fields_of_the_api():
    parser = load_command_class("apikeys", "issue_key").create_parser("manage.py", "issue_key")
    common = set(BaseCommand().create_parser("manage.py", "x").parse_args([]).__dict__)
    options = set(parser.parse_args(["a@b.example", "--name", "x"]).__dict__) - common
    assert options - {"email"} == set(NewAPIKeySerializer().fields)


@pytest.mark.parametrize(
    "moment", ["2000-01-01", "9999-12-31", "0001-01-01T00:00:00+14:00", "soon", "2200-01-01", ""]
)
def test_issue_key_refuses_a_time_that_no_key_lives_to(alice, moment):
    with pytest.raises(CommandError, match="time"):
        run("issue_key", alice.email, "--name", "x", f"--expires-at={moment}")
    assert not APIKey.objects.exists()


def test_issue_key_does_not_take_an_empty_scope_for_all_of_them(alice):
    with pytest.raises(CommandError, match="A scope is empty"):
        run("issue_key", alice.email, "--name", "x", "--scopes", "")
    assert not APIKey.objects.exists()


def test_issue_key_can_limit_what_the_key_may_do(alice):
    run("issue_key", alice.email, "--name", "node", "--scopes", "proxy:openai", "customers:read")
    assert APIKey.objects.get().granted == ("proxy:openai", "customers:read")
    with pytest.raises(CommandError, match="Unknown scope “root”"):
        run("issue_key", alice.email, "--name", "x", "--scopes", "root")


@pytest.mark.parametrize("days", ["0", "-1", "99999999"])
def test_issue_key_refuses_a_senseless_expiry(alice, days):
    with pytest.raises(CommandError, match="from 1 to 36500"):
        run("issue_key", alice.email, "--name", "x", f"--expires-in-days={days}")


def test_issue_key_says_what_is_wrong(alice, issue):
    issue("taken")
    with pytest.raises(CommandError, match="Choose another name"):
        run("issue_key", alice.email, "--name", "TAKEN")
    with pytest.raises(CommandError, match="No active account"):
        run("issue_key", "nobody@example.org", "--name", "x")


@pytest.mark.parametrize("form", ["{0}", "comfyui-{0}", "comfyui-{0}…"])
def test_revoke_key_takes_the_public_id_as_people_see_it(issue, form):
    key, token = issue()
    assert key.masked in run("revoke_key", form.format(key.public_id))
    assert services.validate(token.reveal()).code is VerdictCode.REVOKED


def test_revoke_key_takes_a_whole_key_and_does_not_print_it(issue):
    _key, token = issue()
    assert token.reveal()[20:] not in run("revoke_key", token.reveal())


def test_revoke_key_says_when_there_is_nothing_to_do(issue):
    key, _token = issue()
    run("revoke_key", key.public_id)
    with pytest.raises(CommandError, match="already"):
        run("revoke_key", key.public_id)
    with pytest.raises(CommandError, match="No key"):
        run("revoke_key", "0" * 12)


def test_list_keys_shows_state_and_no_secret(alice, issue):
    key, token = issue("studio")
    gone, _token = issue("gone")
    run("revoke_key", gone.public_id)
    printed = run("list_keys", alice.email)
    assert f"{key.public_id}  live" in printed
    assert f"{gone.public_id}  revoked" in printed
    assert token.reveal()[20:] not in printed
