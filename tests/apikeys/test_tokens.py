"""The format of keys."""

import secrets
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apikeys import tokens
from apikeys.tokens import ParseError, Token
from tests.factories import with_checksum

KEY = b"k" * 32
OTHER = b"o" * 32


def fresh() -> str:
    return tokens.make(tag_key=KEY).reveal()


def test_a_token_is_what_unmodified_comfyui_accepts():
    text = fresh()
    assert text.startswith("comfyui-")
    assert len(text) == 72
    assert set(text.removeprefix("comfyui-")) <= set("0123456789abcdef")


def test_a_token_reads_back():
    made = tokens.make(tag_key=KEY)
    read = tokens.parse(made.reveal(), tag_keys=[KEY])
    assert isinstance(read, Token)
    assert read.public_id == made.public_id
    assert read.reveal() == made.reveal()


def test_space_around_a_pasted_token_is_forgiven():
    assert isinstance(tokens.parse(f"\n {fresh()}\t", tag_keys=[KEY]), Token)


def test_a_token_tagged_with_a_retired_key_is_honoured_while_it_is_a_fallback():
    text = tokens.make(tag_key=OTHER).reveal()
    assert isinstance(tokens.parse(text, tag_keys=[KEY, OTHER]), Token)
    assert tokens.parse(text, tag_keys=[KEY]) is ParseError.FORGED


def test_a_token_made_up_with_a_good_checksum_is_forged():
    body = "comfyui-" + secrets.token_hex(28)
    assert tokens.parse(with_checksum(body), tag_keys=[KEY]) is ParseError.FORGED


@given(position=st.integers(0, 71), replacement=st.sampled_from(string.printable + "é０٣"))
def test_any_one_character_change_is_refused(position, replacement):
    text = fresh()
    changed = text[:position] + replacement + text[position + 1 :]
    if changed == text:
        assert isinstance(tokens.parse(changed, tag_keys=[KEY]), Token)
    else:
        assert tokens.parse(changed, tag_keys=[KEY]) is ParseError.MALFORMED


@given(st.text() | st.text(alphabet="comfyui-0123456789abcdef", min_size=60, max_size=80))
def test_any_text_is_refused_without_an_exception(text):
    assert tokens.parse(text, tag_keys=[KEY]) in ParseError


@given(st.text(alphabet="0123456789abcdef", min_size=64, max_size=64))
def test_any_digits_in_the_right_shape_are_refused_without_an_exception(digits):
    assert tokens.parse(f"comfyui-{digits}", tag_keys=[KEY]) in ParseError


@pytest.mark.parametrize(
    "show",
    [repr, str, "{}".format, "{!r}".format],
    ids=["repr", "str", "format", "format of its repr"],
)
def test_showing_a_token_shows_no_secret(show):
    token = tokens.make(tag_key=KEY)
    shown = show(token)
    assert token.public_id in shown
    assert token.reveal()[20:] not in shown
    assert token.reveal() not in shown


@given(st.text(), st.text())
def test_redaction_leaves_nothing_but_the_public_part(before, after):
    text = fresh()
    redacted = tokens.redact(f"{before}{text}{after}")
    assert text[20:] not in redacted
    assert text[:20] + "…" in redacted


def test_redaction_catches_a_key_cut_short():
    text = fresh()
    assert text[20:40] not in tokens.redact(f"… {text[:40]}")


def test_redaction_catches_keys_without_anything_between():
    first, second = fresh(), fresh()
    shown = tokens.redact(first + second + second.upper())
    is_current = first[20:] in shown or second[20:] in shown or second[20:].upper() in shown
    assert not is_current


def test_redaction_leaves_other_text_alone():
    assert tokens.redact("comfyui-frontend-package 1.58.1") == "comfyui-frontend-package 1.58.1"


def test_tokens_do_not_repeat():
    assert len({fresh() for _ in range(1000)}) == 1000
