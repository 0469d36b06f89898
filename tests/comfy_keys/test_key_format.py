"""The client's checks of keys and scopes agree with the platform's."""

import re
import tomllib
from importlib import metadata

import comfy_keys
import pytest
from comfy_keys import headers, protocol, verdicts
from comfy_keys.key_format import looks_right, public_part
from comfy_keys.version import VERSION
from django.utils.translation import override

from apikeys import messages, scopes, tokens
from apikeys.api.authentication import CHALLENGE
from apikeys.services import VerdictCode
from tests.platforms import ROOT

TAG_KEY = b"t" * 32


def made() -> str:
    return tokens.make(tag_key=TAG_KEY).reveal()


def test_a_key_of_the_platform_is_well_formed():
    for _ in range(200):
        token = tokens.make(tag_key=TAG_KEY)
        assert looks_right(token.reveal())
        assert public_part(token.reveal()) == f"{tokens.PREFIX}{token.public_id}"


def test_a_key_with_a_wrong_character_is_malformed():
    key = made()
    for place, character in enumerate(key):
        for other in "0", "f", "A", "é", " ", "\n":
            if other != character:
                mistyped = key[:place] + other + key[place + 1 :]
                assert not looks_right(mistyped)
                assert tokens.parse(
                    mistyped, tag_keys=[TAG_KEY]
                ) is tokens.ParseError.MALFORMED or (mistyped.strip() == key)


@pytest.mark.parametrize("text", ["", "comfyui-", "x" * 72, "comfyui-" + "g" * 64, "\ud800", "\0"])
def test_other_text_is_malformed(text):
    assert not looks_right(text)
    assert not looks_right(made() + text.strip() + "0")


def test_a_mistyped_key_gives_the_platforms_message():
    with override("en"):
        assert str(messages.VERDICTS[VerdictCode.MALFORMED]) == verdicts.MISTYPED.message
    assert verdicts.MISTYPED.code == VerdictCode.MALFORMED
    assert verdicts.VALID == VerdictCode.VALID
    assert headers.CHALLENGE == CHALLENGE


@pytest.mark.parametrize(
    "granted",
    [scopes.ALL, ("customers:read",), ("proxy:openai", "customers:read"), ("proxy:*",), ()],
)
def test_scopes_match_as_on_the_platform(granted):
    key = comfy_keys.Key("1", "studio", "comfyui-87d01e28d3f4", tuple(granted), None)
    verdict = verdicts.GoodVerdict(key, comfy_keys.Customer("1", "alice@example.org", "Alice"))
    for wanted in (*scopes.ALL, "proxy:openai", "proxy:openaix", "proxy:", "", "*"):
        assert verdict.covers(wanted) == scopes.covers(granted, wanted)
    assert not verdicts.MISTYPED.covers("customers:read")


def test_a_verdict_is_true_only_for_a_valid_key():
    key = comfy_keys.Key("1", "studio", "comfyui-87d01e28d3f4", (), None)
    good = verdicts.GoodVerdict(key, comfy_keys.Customer("1", "alice@example.org", "Alice"))
    assert good
    assert (good.valid, good.code, good.message) == (True, "VALID", "")
    assert not verdicts.MISTYPED
    assert verdicts.MISTYPED.valid is False
    for verdict in good, verdicts.MISTYPED:
        assert isinstance(verdict, comfy_keys.Verdict)


def test_the_versions_are_equal():
    platform = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert platform == VERSION
    assert platform in protocol.USER_AGENT


def test_httpx_is_the_only_dependency():
    """httpcore is a dependency of httpx."""
    project = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())["project"]
    assert [re.split(r"[><=]", needed)[0] for needed in project["dependencies"]] == [
        "httpcore",
        "httpx",
    ]
    assert any(needed.startswith("httpcore") for needed in metadata.requires("httpx") or [])
