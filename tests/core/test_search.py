"""Searches without case and accents, and alphabetical order, in any script on both databases."""

import pytest

from apikeys.models import APIKey
from core import text

pytestmark = pytest.mark.django_db

TEXTS = {
    "Éclair": "eclair",
    "ÅNGSTRÖM": "angstrom",
    "Straße": "strasse",
    "ΣΊΣΥΦΟΣ": "σισυφοσ",
    "Ёлка": "елка",
    "Ｓｔｕｄｉｏ": "studio",
    "İstanbul": "istanbul",
    "Việt": "viet",
    "كِتَاب": "كتاب",
    "שָׁלוֹם": "שלום",
    # Not accents: another letter, and a syllable.
    "が": "が",
    "ガ": "ガ",
    "각": "각",
    "工作室": "工作室",
    "ไทย่": "ไทย",
    "हिन्दी": "हिन्दी",
}


@pytest.mark.parametrize("written", TEXTS)
def test_the_database_and_python_agree(issue, written):
    issue(written)
    assert text.search_form(written) == TEXTS[written]
    found = APIKey.objects.values_list("name__search_form", flat=True).get()
    assert found == TEXTS[written]


@pytest.mark.parametrize(
    ("written", "words", "is_found"),
    [
        ("Éclair", "ECLAIR", True),
        ("Eclair", "é", True),
        ("Straße", "STRASSE", True),
        ("スタジオ", "ｽﾀｼﾞｵ", True),
        ("が", "か", False),
        ("각", "가", False),
        ("100%_sure", "0%_S", True),
        ("100 sure", "0%_s", False),
    ],
)
def test_names_and_descriptions_are_found_in_any_script(issue, written, words, is_found):
    issue(written)
    issue("other", description=f"the {written} one")
    issue("xyz")
    found = {key.name for key in APIKey.objects.matching(words)}
    assert found == ({written, "other"} if is_found else set())
