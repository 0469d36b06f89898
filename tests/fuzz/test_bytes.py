"""Any bytes where a key belongs: judged, never raised at, and by the lane as by Django."""

import os
import subprocess
import sys
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from apikeys import tokens
from apikeys.tokens import Refusal, Token
from fastlane.wsgi import FastLane
from tests.fastlane.test_lane import say, twin
from tests.fuzz.lane import NAMES, ROUTES, asked, make_tokens
from tests.servers import ROOT

TAG_KEYS = st.lists(st.binary(min_size=1, max_size=64), min_size=1, max_size=4, unique=True)


@given(keys=TAG_KEYS, used=st.data())
def test_a_token_reads_back_with_the_key_that_tagged_it_and_with_no_other(keys, used):
    key = used.draw(st.sampled_from(keys))
    made = tokens.make(tag_key=key)
    read = tokens.parse(made.reveal(), tag_keys=keys)
    assert isinstance(read, Token)
    assert (read.public_id, read.reveal()) == (made.public_id, made.reveal())
    others = [other for other in keys if other != key]
    assert tokens.parse(made.reveal(), tag_keys=others) is Refusal.FORGED


@given(position=st.integers(0, 71), character=st.characters(), taken=st.integers(0, 1))
def test_a_character_changed_or_added_anywhere_is_refused(position, character, taken):
    text = tokens.make(tag_key=b"k").reveal()
    changed = text[:position] + character + text[position + taken :]
    if changed.strip() != text:
        assert tokens.parse(changed, tag_keys=[b"k"]) is Refusal.MALFORMED


@given(position=st.integers(0, 70))
def test_a_character_left_out_or_exchanged_with_the_next_is_refused(position):
    text = tokens.make(tag_key=b"k").reveal()
    one, two = text[position : position + 2]
    for instead in (one, two + one):
        changed = text[:position] + instead + text[position + 2 :]
        if changed != text:
            assert tokens.parse(changed, tag_keys=[b"k"]) is Refusal.MALFORMED


@given(st.binary(), st.sampled_from(["latin-1", "utf-8", "utf-16", "utf-7"]))
def test_any_bytes_are_refused_without_an_exception(data, encoding):
    text = data.decode(encoding, "replace")
    assert isinstance(tokens.parse(text, tag_keys=[b"k"]), Refusal)


# --- The lane ---------------------------------------------------------------------------------


@pytest.fixture
def known(transactional_db) -> list[bytes]:
    return make_tokens()


@pytest.fixture
def lane(known: list[bytes], lane_alone: FastLane) -> FastLane:
    """The keys are there before anything is remembered of them."""
    return lane_alone


# Around and inside of a token: what parsers take for an end, a beginning, or nothing.
ODD = st.sampled_from(
    [b"", b" ", b"\t", b",", b"\0", b"\xa0", b"\x85", b"\xff", b'"', b";", b"\xe9"]
)
VALUES = st.one_of(
    st.binary(max_size=80),
    st.tuples(
        st.sampled_from([b"", b"Bearer ", b"bearer ", b"Bearer  ", b"Bearer\t", b"Basic "]),
        ODD,
        st.binary(min_size=1, max_size=1).map(lambda number: bytes([number[0] % 4 + 1])),
        ODD,
    ).map(b"".join),
)
HEADERS = st.lists(st.tuples(st.integers(0, len(NAMES) - 1), VALUES), max_size=4)


@hypothesis_settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(route=st.integers(0, len(ROUTES) - 1), headers=HEADERS)
def test_whatever_bytes_headers_hold_the_lane_says_what_django_says(
    route: int, headers: list[tuple[int, bytes]], lane: Any, known: list[bytes]
) -> None:
    lines = [bytes([name]) + value.replace(b"\n", b"") for name, value in headers]
    environ = asked(b"\n".join([bytes([route]), *lines]), known)
    expected = say(WSGIHandler(), twin(environ))
    assert int(expected[0].split()[0]) < 500
    for _time in ("cold", "warm"):
        assert say(lane, twin(environ)) == expected


# --- Guided -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("judge", "runs"), [("atheris_tokens", 30_000), ("atheris_lane", 1_500)])
def test_guided_by_what_it_covers_nothing_is_found(judge: str, runs: int, tmp_path) -> None:
    """Bounded by runs, not by time. The modules say how to look for longer."""
    environment = {name: value for name, value in os.environ.items() if name != "TEST_DATABASE_URL"}
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            f"tests.fuzz.{judge}",
            f"-runs={runs}",
            "-seed=1",
            f"-artifact_prefix={tmp_path}/",
        ],
        cwd=ROOT,
        # It leaves its database behind, as libFuzzer ends without a farewell.
        env={**environment, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert found.returncode == 0, found.stderr[-4000:]
    assert f"Done {runs} runs" in found.stdout + found.stderr
