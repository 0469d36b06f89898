"""Every translatable text is translated, and compiled catalogs are up to date."""

import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import extract
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po
from django.conf import settings
from django.utils.translation import to_locale
from django.utils.translation.template import templatize

ROOT = Path(__file__).parents[1]
PACKAGES = ("accounts", "apikeys", "audit", "backups", "oauth", "outbox", "platform", "staff")
LOCALES = [to_locale(code) for code, _name in settings.LANGUAGES if code != settings.LANGUAGE_CODE]
KEYWORDS = {
    "gettext": None,
    "gettext_lazy": None,
    "gettext_noop": None,
    "_": None,
    "ngettext": (1, 2),
    "ngettext_lazy": (1, 2),
    "pgettext": ((1, "c"), 2),
    "npgettext": ((1, "c"), 2, 3),
}
PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|\{\w*\}|</?\w+[^>]*>")

type Word = str | tuple[str, ...]


def translatable_texts() -> Iterator[Word]:
    """Return the texts that code and templates pass to gettext."""
    sources = [
        (path, path.read_text()) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
    ]
    for kind in ("*.html", "*.txt"):
        sources += [
            # In brackets, where indentation is ignored: the output of templatize is no valid
            # program.
            (path, f"({templatize(path.read_text(), origin=str(path))})")
            for path in (ROOT / "templates").rglob(kind)
        ]
    for path, source in sources:
        if "migrations" in path.parts:
            continue
        found = extract("python", BytesIO(source.encode()), KEYWORDS, (), {"encoding": "utf-8"})
        for _line, word, _comments, _context in found:
            yield word[:2] if isinstance(word, tuple) else word


def catalog(locale: str) -> Catalog:
    with (ROOT / "locale" / locale / "LC_MESSAGES" / "django.po").open("rb") as file:
        return read_po(file, locale=locale)


def first(word: Word) -> str:
    return word if isinstance(word, str) else word[0]


@pytest.fixture(scope="module")
def words() -> set[str]:
    return {first(word) for word in translatable_texts()}


def test_there_are_texts_to_check(words):
    assert {"Generate", "Log in", "Your profile was saved."} <= words
    assert len(words) > 300


@pytest.mark.parametrize("locale", LOCALES)
def test_every_text_is_translated(locale, words):
    translated = {
        first(message.id): message for message in catalog(locale) if message.id and message.string
    }
    assert words - set(translated) == set(), "run `make messages`, then translate these"
    for message in translated.values():
        assert not message.fuzzy, message.id


@pytest.mark.parametrize("locale", LOCALES)
def test_a_translation_keeps_its_placeholders(locale):
    for message in catalog(locale):
        forms = message.string if isinstance(message.string, tuple) else (message.string,)
        # A singular may omit its number. These languages have one plural form.
        original = message.id[-1] if isinstance(message.id, tuple) else message.id
        for form in forms if message.id else ():
            assert set(PLACEHOLDER.findall(form)) == set(PLACEHOLDER.findall(original)), original


@pytest.mark.parametrize("locale", LOCALES)
def test_compiled_catalogs_are_up_to_date(locale):
    with (ROOT / "locale" / locale / "LC_MESSAGES" / "django.mo").open("rb") as file:
        compiled = read_mo(file)
    assert texts(compiled) == texts(catalog(locale)), "run `make messages`"


def texts(messages: Catalog) -> dict[str, tuple[str, ...]]:
    return {
        first(message.id): (message.string,)
        if isinstance(message.string, str)
        else tuple(message.string)
        for message in messages
        if message.id
    }
