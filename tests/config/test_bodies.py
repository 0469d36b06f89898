"""The server is believed to hold on to nothing of a body where its end is certain, and read."""

import io
from typing import Any

import pytest
from django.core.exceptions import BadRequest

from config.bodies import ALL_READ, fetched_when_needed


def asked(data: bytes = b"abc", **more: str) -> dict[str, Any]:
    environ: dict[str, Any] = {
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REQUEST_METHOD": "POST",
        "CONTENT_LENGTH": "3",
        "wsgi.input": io.BytesIO(data),
        ALL_READ: [],
        **more,
    }
    fetched_when_needed(environ)
    return environ


def test_a_body_is_all_read_once_it_is():
    environ = asked()
    assert environ[ALL_READ] == []
    assert environ["wsgi.input"].read(1) == b"a"
    assert environ["wsgi.input"].read() == b"bc"
    assert environ[ALL_READ] == [True]


@pytest.mark.parametrize(
    "more",
    [
        {"SERVER_PROTOCOL": "HTTP/2"},
        {"SERVER_PROTOCOL": "HTTP/1"},
        {"HTTP_TRANSFER_ENCODING": "chunked"},
        {"CONTENT_LENGTH": ""},
    ],
)
def test_not_where_its_end_may_be_another_one(more):
    environ = asked(**more)
    assert environ["wsgi.input"].read() == b"abc"
    assert environ[ALL_READ] == []


def test_nor_where_less_came():
    environ = asked(b"ab")
    with pytest.raises(BadRequest):
        environ["wsgi.input"].read()
    assert environ[ALL_READ] == []


def test_nobody_has_to_ask():
    environ = {**asked(), "wsgi.input": io.BytesIO(b"abc")}
    del environ[ALL_READ]
    fetched_when_needed(environ)
    assert environ["wsgi.input"].read() == b"abc"
