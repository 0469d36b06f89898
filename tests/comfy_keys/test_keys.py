"""What the client knows by itself is what the platform says, rule for rule."""

import re
import tomllib

import comfy_keys
import pytest
from comfy_keys import headers, protocol, verdicts
from comfy_keys.keys import looks_right, public_part
from comfy_keys.version import VERSION
from django.utils.translation import override

from apikeys import scopes, tokens
from apikeys.api.authentication import CHALLENGE, WORDS
from apikeys.services import Code
from tests.servers import ROOT

TAG_KEY = b"t" * 32


def made() -> str:
    return tokens.make(tag_key=TAG_KEY).reveal()


def test_what_the_platform_makes_looks_right():
    for _ in range(200):
        token = tokens.make(tag_key=TAG_KEY)
        assert looks_right(token.reveal())
        assert public_part(token.reveal()) == f"{tokens.PREFIX}{token.public_id}"


def test_one_wrong_character_anywhere_does_not():
    key = made()
    for place, character in enumerate(key):
        for other in "0", "f", "A", "é", " ", "\n":
            if other != character:
                mistyped = key[:place] + other + key[place + 1 :]
                assert not looks_right(mistyped)
                assert tokens.parse(mistyped, tag_keys=[TAG_KEY]) is tokens.Refusal.MALFORMED or (
                    mistyped.strip() == key
                )


@pytest.mark.parametrize("text", ["", "comfyui-", "x" * 72, "comfyui-" + "g" * 64, "\ud800", "\0"])
def test_nor_does_anything_else(text):
    assert not looks_right(text)
    assert not looks_right(made() + text.strip() + "0")


def test_a_mistyped_key_is_spoken_of_in_the_platforms_words():
    with override("en"):
        assert str(WORDS[Code.MALFORMED]) == verdicts.MISTYPED.message
    assert verdicts.MISTYPED.code == Code.MALFORMED
    assert verdicts.VALID == Code.VALID
    assert headers.CHALLENGE == CHALLENGE


@pytest.mark.parametrize(
    "granted",
    [scopes.ALL, ("customers:read",), ("proxy:openai", "customers:read"), ("proxy:*",), ()],
)
def test_scopes_cover_what_they_do_on_the_platform(granted):
    key = comfy_keys.Key("1", "studio", "comfyui-87d01e28d3f4", tuple(granted), None)
    verdict = verdicts.Verdict(valid=True, code="VALID", key=key)
    for wanted in (*scopes.ALL, "proxy:openai", "proxy:openaix", "proxy:", "", "*"):
        assert verdict.covers(wanted) == scopes.covers(granted, wanted)
    assert not verdicts.MISTYPED.covers("customers:read")


def test_a_verdict_is_true_when_the_key_is_good_and_only_then():
    assert verdicts.Verdict(valid=True, code="VALID")
    assert not verdicts.MISTYPED


def test_the_versions_are_in_step():
    platform = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert platform == VERSION
    assert platform in protocol.NAME


def test_it_needs_nothing_but_httpx_to_be_installed():
    project = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())["project"]
    assert [re.split(r"[><=]", needed)[0] for needed in project["dependencies"]] == ["httpx"]
