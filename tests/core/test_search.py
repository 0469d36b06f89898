"""Searches without case and accents, and alphabetical order, in any script on both databases."""

import pytest

from apikeys.models import APIKey
from core import text
from core.collation import alphabetical_key, in_alphabetical_order

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


# Each line is in the order of its language, which Unicode's code points are not in.
ORDERED = [
    ["Éclair", "eclipse", "Zebra"],
    ["hat", "ılık", "jale"],
    ["lab", "łódź", "ocean", "øl", "pizza"],
    ["ёлка", "ель", "иван", "йод", "клён"],
    ["アトリエ", "がか", "カメラ", "きって", "キッド", "スタジオ"],
    ["가나", "각", "스튜디오", "작업실"],
    ["أحمد", "استوديو", "بيت", "كتاب"],
    ["工作室", "録音室"],
]


@pytest.mark.parametrize("names", ORDERED, ids=lambda names: names[0])
def test_names_are_in_alphabetical_order(issue, names):
    for name in reversed(names):
        issue(name)
    ordered = APIKey.objects.order_by(in_alphabetical_order("name"))
    assert list(ordered.values_list("name", flat=True)) == names
    assert sorted(names, key=alphabetical_key) == names
