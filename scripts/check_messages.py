"""Fail on missing, outdated and inconsistent translations.

    python -m scripts.check_messages

docs/translating.md says how to translate.
"""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po
from django.utils.translation import to_locale

from scripts.texts import ROOT, Text, texts

PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|\{\w*\}")
TAG = re.compile(r"</?\w+[^>]*>")


def main() -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    from django.conf import settings

    wanted = list(texts())
    found = 0
    for code, _name in settings.LANGUAGES:
        if code == settings.LANGUAGE_CODE:
            continue
        folder = ROOT / "locale" / to_locale(code) / "LC_MESSAGES"
        for problem in problems(folder, to_locale(code), wanted):
            print(f"{folder.relative_to(ROOT)}: {problem}")
            found += 1
    if found:
        print(f"{found} problems: docs/translating.md", file=sys.stderr)
    return 1 if found else 0


def problems(folder: Path, locale: str, wanted: Iterable[Text]) -> Iterator[str]:
    """Yield what is wrong with the catalog in `folder`, which needs translations of `wanted`."""
    if not (folder / "django.po").exists():
        yield "there is no django.po"
        return
    with (folder / "django.po").open("rb") as file:
        catalog = read_po(file, locale=locale)
    translated = {_key(message): message for message in catalog if message.id}
    for key in dict.fromkeys((text.context, text.singular) for text in wanted):
        if key not in translated:
            yield f"missing: {key[1]!r}"
    for message in translated.values():
        yield from problems_of(message, catalog.num_plurals)
    compiled = folder / "django.mo"
    if not compiled.exists():
        yield "there is no django.mo: run `make messages`"
        return
    with compiled.open("rb") as file:
        if _translations(read_mo(file)) != _translations(catalog):
            yield "django.mo is outdated: run `make messages`"


def problems_of(message: Message, plural_forms: int) -> Iterator[str]:
    """Yield what is wrong with one translation. plural_forms: of the language."""
    ids = (message.id,) if isinstance(message.id, str) else tuple(message.id)
    forms = (message.string,) if isinstance(message.string, str) else tuple(message.string)
    if message.fuzzy:
        yield f"fuzzy: {ids[0]!r}"
    elif not all(forms):
        yield f"not translated: {ids[0]!r}"
    elif len(forms) != (plural_forms if len(ids) > 1 else 1):
        yield f"{len(forms)} plural forms instead of {plural_forms}: {ids[0]!r}"
    else:
        for number, form in enumerate(forms):
            # "One key" and Arabic's dual need no number, but the last form does.
            may_omit = int(number < len(forms) - 1)
            yield from (f"{problem}: {form!r}" for problem in _mismatches(ids[-1], form, may_omit))


def _mismatches(original: str, translation: str, may_omit: int) -> Iterator[str]:
    """Yield how the placeholders, tags and outer spaces of a translation differ.

    may_omit: how many placeholders it may omit.
    """
    expected, found = set(PLACEHOLDER.findall(original)), set(PLACEHOLDER.findall(translation))
    if found - expected or len(expected - found) > may_omit:
        yield f"placeholders differ from {sorted(expected)}"
    if Counter(TAG.findall(original)) != Counter(TAG.findall(translation)):
        yield f"tags differ from {TAG.findall(original)}"
    for strip in (str.lstrip, str.rstrip):
        if (original == strip(original)) != (translation == strip(translation)):
            yield "spaces or line breaks around the text differ"


def _key(message: Message) -> tuple[str, str]:
    singular = message.id if isinstance(message.id, str) else message.id[0]
    return message.context or "", singular


def _translations(catalog: Catalog) -> dict[tuple[str, str], tuple[str, ...]]:
    return {
        _key(message): (message.string,)
        if isinstance(message.string, str)
        else tuple(message.string)
        for message in catalog
        if message.id and not message.fuzzy and message.string and any(message.string)
    }


if __name__ == "__main__":
    sys.exit(main())
