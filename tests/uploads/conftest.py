"""A folder for uploads, and the requests of a node."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.test import Client

from apikeys.tokens import Token
from tests.conftest import Issue

Ask = Callable[..., Any]


@pytest.fixture(autouse=True)
def folder(settings: Any, tmp_path: Path) -> Path:
    """Return the folder of uploads, of this test alone."""
    settings.UPLOAD_FOLDER = tmp_path / "uploads"
    options = settings.STORAGES["uploads"]["OPTIONS"]
    settings.STORAGES = {
        **settings.STORAGES,
        "uploads": {
            **settings.STORAGES["uploads"],
            "OPTIONS": {**options, "location": settings.UPLOAD_FOLDER / "files"},
        },
    }
    return settings.UPLOAD_FOLDER


@pytest.fixture
def token(issue: Issue) -> Token:
    return issue()[1]


@pytest.fixture
def ask(client: Client, token: Token) -> Ask:
    """Return a function that asks for an upload as a node does, and returns the response."""

    def send(key: str | None = None, /, **fields: Any) -> Any:
        return client.post(
            "/customers/storage",
            {"file_name": "cat.png", **fields},
            content_type="application/json",
            headers={"X-API-Key": key or token.reveal()},
        )

    return send


def path_of(url: str) -> str:
    """Return path and query of a URL, for Django's test client."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


def put(client: Client, url: str, content: bytes, content_type: str = "", **more: Any) -> Any:
    """Upload `content` as a node does: without a Content-Type unless it has named one."""
    return client.generic("PUT", path_of(url), content, content_type, **more)


def get(client: Client, url: str, **headers: str) -> Any:
    """Return the response, read to its end into `data`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = client.get(path_of(url), headers=named)
    response.data = response.getvalue()
    return response


def stored_files(folder: Path) -> list[Path]:
    """Return all files in the folder of uploads, also temporary ones."""
    return [path for path in folder.rglob("*") if path.is_file()]
