"""Every text is translated into every language, and scripts/check_messages.py finds what is not."""

from pathlib import Path

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.mofile import write_mo
from babel.messages.pofile import write_po
from django.conf import settings
from django.utils.translation import to_locale

from scripts import check_messages
from scripts.texts import ROOT, Text, texts, texts_of

LOCALES = [to_locale(code) for code, _name in settings.LANGUAGES if code != settings.LANGUAGE_CODE]
HELLO = Text("views.py", 1, "Hello, %(name)s")


@pytest.fixture(scope="module")
def wanted() -> list[Text]:
    return list(texts())


def test_there_are_texts_to_check(wanted):
    assert {"Generate", "Log in", "Your profile was saved."} <= {text.singular for text in wanted}
    assert len(wanted) > 300


@pytest.mark.parametrize("locale", LOCALES)
def test_every_text_is_translated(locale, wanted):
    folder = ROOT / "locale" / locale / "LC_MESSAGES"
    assert list(check_messages.problems(folder, locale, wanted)) == []


def test_texts_of_code_and_templates_are_found():
    code = '_("One"); ngettext("%d key", "%d keys", n); pgettext("theme", "Light")'
    page = (
        '{% translate "Two" %}{% blocktranslate count n=n %}A{% plural %}B{% endblocktranslate %}'
    )
    assert [text[2:] for text in texts_of("x.py", code)] == [
        ("One", "", ""), ("%d key", "%d keys", ""), ("Light", "", "theme")
    ]  # fmt: skip
    assert [text[2:] for text in texts_of("x.html", page)] == [("Two", "", ""), ("A", "B", "")]


def write(folder: Path, *, flags: tuple[str, ...] = (), string: str = "Hallo, %(name)s") -> Path:
    catalog = Catalog(locale="de")
    catalog.add(HELLO.singular, string, flags=flags)
    with (folder / "django.po").open("wb") as file:
        write_po(file, catalog)
    with (folder / "django.mo").open("wb") as file:
        write_mo(file, catalog)
    return folder


def test_a_complete_catalog_has_no_problems(tmp_path):
    assert list(check_messages.problems(write(tmp_path), "de", [HELLO])) == []


def test_incomplete_catalogs_are_found(tmp_path):
    def found(folder: Path, *more: Text) -> str:
        return " ".join(check_messages.problems(folder, "de", [HELLO, *more]))

    assert found(tmp_path) == "there is no django.po"
    assert found(write(tmp_path), Text("views.py", 2, "Bye")) == "missing: 'Bye'"
    assert found(write(tmp_path), HELLO._replace(context="mail")).startswith("missing")
    assert found(write(tmp_path, string="")).startswith("not translated")
    assert found(write(tmp_path, flags=("fuzzy",))).startswith("fuzzy")
    old = (write(tmp_path) / "django.mo").read_bytes()
    write(tmp_path, string="Guten Tag, %(name)s")
    (tmp_path / "django.mo").write_bytes(old)
    assert found(tmp_path) == "django.mo is outdated: run `make messages`"
    (tmp_path / "django.mo").unlink()
    assert found(tmp_path) == "there is no django.mo: run `make messages`"


@pytest.mark.parametrize(
    ("original", "translation", "is_right"),
    [
        ("Hello, %(name)s", "%(name)s, hallo", True),
        ("Hello, %(name)s", "Hallo", False),
        ("Hello, %(name)s", "Hallo, %(nme)s", False),
        ("Hello, {name}", "Hallo, {nam}", False),
        ("<b>Hello</b>", "<b>Hallo</b>", True),
        ("<b>Hello</b>", "<b>Hallo<b>", False),
        ('<a href="/x">Hello</a>', '<a href="/y">Hallo</a>', False),
        ("Hello\n", "Hallo", False),
        ("Hello", " Hallo", False),
        (("%(n)s key", "%(n)s keys"), ("Ein Key", "%(n)s Keys"), True),
        (("%(n)s key", "%(n)s keys"), ("%(n)s Key", "Keys"), False),
        (("%(n)s key", "%(n)s keys"), ("%(n)s Keys",), False),
        (("%(n)s key", "%(n)s keys"), ("%(n)s Key", "%(n)s Keys", "%(n)s Keys"), False),
    ],
)
def test_inconsistent_translations_are_found(original, translation, is_right):
    found = list(check_messages.problems_of(Message(original, translation), 2))
    assert (found == []) is is_right, found
