"""Any bytes in place of a key: no exception, and the validation cache answers as Django does."""

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
from apikeys.cache.middleware import ValidationCache
from apikeys.tokens import ParseError, Token
from tests.apikeys.cache.test_middleware import get_response, twin
from tests.fuzz.byte_requests import NAMES, ROUTES, as_request, make_tokens
from tests.platforms import ROOT

TAG_KEYS = st.lists(st.binary(min_size=1, max_size=64), min_size=1, max_size=4, unique=True)


@given(keys=TAG_KEYS, used=st.data())
def test_a_token_parses_with_its_tag_key_only(keys, used):
    key = used.draw(st.sampled_from(keys))
    made = tokens.make(tag_key=key)
    read = tokens.parse(made.reveal(), tag_keys=keys)
    assert isinstance(read, Token)
    assert (read.public_id, read.reveal()) == (made.public_id, made.reveal())
    others = [other for other in keys if other != key]
    assert tokens.parse(made.reveal(), tag_keys=others) is ParseError.FORGED


@given(position=st.integers(0, 71), character=st.characters(), taken=st.integers(0, 1))
def test_a_changed_or_added_character_is_refused(position, character, taken):
    text = tokens.make(tag_key=b"k").reveal()
    changed = text[:position] + character + text[position + taken :]
    if changed.strip() != text:
        assert tokens.parse(changed, tag_keys=[b"k"]) is ParseError.MALFORMED


@given(position=st.integers(0, 70))
def test_a_missing_or_swapped_character_is_refused(position):
    text = tokens.make(tag_key=b"k").reveal()
    one, two = text[position : position + 2]
    for instead in (one, two + one):
        changed = text[:position] + instead + text[position + 2 :]
        if changed != text:
            assert tokens.parse(changed, tag_keys=[b"k"]) is ParseError.MALFORMED


@given(st.binary(), st.sampled_from(["latin-1", "utf-8", "utf-16", "utf-7"]))
def test_any_bytes_are_refused_without_an_exception(data, encoding):
    text = data.decode(encoding, "replace")
    assert isinstance(tokens.parse(text, tag_keys=[b"k"]), ParseError)


# --- Validation cache -------------------------------------------------------------------------


@pytest.fixture
def known(transactional_db) -> list[bytes]:
    return make_tokens()


@pytest.fixture
def cache(known: list[bytes], validation_cache: ValidationCache) -> ValidationCache:
    """Return the validation cache after the keys were made, so that none is cached before."""
    return validation_cache


# Around and inside a token: separators, white space and other bytes that parsers treat specially.
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
def test_for_any_header_bytes_the_cache_answers_as_django_does(
    route: int, headers: list[tuple[int, bytes]], cache: Any, known: list[bytes]
) -> None:
    lines = [bytes([name]) + value.replace(b"\n", b"") for name, value in headers]
    environ = as_request(b"\n".join([bytes([route]), *lines]), known)
    expected = get_response(WSGIHandler(), twin(environ))
    assert int(expected[0].split()[0]) < 500
    for _time in ("cold", "warm"):
        assert get_response(cache, twin(environ)) == expected


# --- Coverage-guided --------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "runs"), [("atheris_tokens", 30_000), ("atheris_cache", 1_500)])
def test_coverage_guided_fuzzing_finds_nothing(module: str, runs: int, tmp_path) -> None:
    """Bounded by runs, not by time. The modules' docstrings say how to run longer."""
    environment = {name: value for name, value in os.environ.items() if name != "TEST_DATABASE_URL"}
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            f"tests.fuzz.{module}",
            f"-runs={runs}",
            "-seed=1",
            f"-artifact_prefix={tmp_path}/",
        ],
        cwd=ROOT,
        # libFuzzer exits without cleaning up its database.
        env={**environment, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert found.returncode == 0, found.stderr[-4000:]
    assert f"Done {runs} runs" in found.stdout + found.stderr
