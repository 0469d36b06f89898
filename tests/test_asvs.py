"""docs/asvs.md against the standard's list, and against the tests that there are.

asvs_ids.txt has the ids of OWASP ASVS 5.0.0 with their levels, and nothing of its text.
"""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "asvs.md"
LEVELS = dict(
    line.split() for line in (ROOT / "tests" / "asvs_ids.txt").read_text().splitlines() if line
)
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> list[list[str]]:
    """The cells of each row of the tables: ids, what is asked, what we do, what proves it."""
    listed = DOCUMENT.read_text().partition("\n## Requirements\n")[2]
    lines = [line for line in listed.splitlines() if re.match(r"\| \d", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def ids(row: list[str]) -> list[str]:
    return [one.strip() for one in row[0].split(",")]


@cache
def names_in(path: str) -> frozenset[str]:
    if not (ROOT / path).exists():
        return frozenset()
    return frozenset(
        node.name
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    )


def test_the_list_is_the_standards_own():
    assert Counter(LEVELS.values()) == {"L1": 70, "L2": 183, "L3": 92}


def test_every_requirement_of_the_first_two_levels_is_in_one_row():
    counted = Counter(one.removesuffix(" (L3)") for row in rows() for one in ids(row))
    asked = {one for one, level in LEVELS.items() if level != "L3"}
    assert sorted(asked - set(counted)) == []
    assert [one for one, times in counted.items() if times > 1] == []
    assert sorted(set(counted) - set(LEVELS)) == []


def test_those_of_the_third_level_are_marked():
    for row in rows():
        for one in ids(row):
            level = LEVELS[one.removesuffix(" (L3)")]
            assert one.endswith(" (L3)") == (level == "L3"), one


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_row_names_tests_that_there_are_or_says_why_not(row):
    assert len(row) == 4
    assert all(row)
    proof = row[3]
    for path, name in NAMED.findall(proof):
        assert name in names_in(path), f"{path}::{name}"
    is_excused = proof.startswith(("does not apply: ", "not met: "))
    if is_excused:
        assert len(proof.partition(": ")[2]) > 10
    else:
        # Nothing but names of tests.
        assert NAMED.sub("", proof).replace("<br>", "") == ""
        assert NAMED.search(proof)


def test_what_is_not_met_is_little():
    """Whoever adds to it has to say so here as well."""
    not_met = [one for row in rows() if row[3].startswith("not met: ") for one in ids(row)]
    assert sorted(one for one in not_met if not one.endswith(" (L3)")) == [
        "10.4.1", "12.3.1", "12.3.3", "12.3.4", "13.2.1", "13.2.2", "16.4.3", "6.3.3", "6.5.2",
        "6.8.2",
    ]  # fmt: skip
