"""docs/asvs.md compared with the standard's list and with the existing tests.

asvs_ids.txt has the ids of OWASP ASVS 5.0.0 with their levels, without their text.
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
    """Yield the cells of each row: ids, requirement, implementation, tests."""
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


def test_the_list_is_the_standards():
    assert Counter(LEVELS.values()) == {"L1": 70, "L2": 183, "L3": 92}


def test_every_level_1_and_2_requirement_has_one_row():
    counted = Counter(one.removesuffix(" (L3)") for row in rows() for one in ids(row))
    asked = {one for one, level in LEVELS.items() if level != "L3"}
    assert sorted(asked - set(counted)) == []
    assert [one for one, times in counted.items() if times > 1] == []
    assert sorted(set(counted) - set(LEVELS)) == []


def test_level_3_requirements_are_marked():
    for row in rows():
        for one in ids(row):
            level = LEVELS[one.removesuffix(" (L3)")]
            assert one.endswith(" (L3)") == (level == "L3"), one


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_row_names_existing_tests_or_a_reason(row):
    assert len(row) == 4
    assert all(row)
    proof = row[3]
    for path, name in NAMED.findall(proof):
        assert name in names_in(path), f"{path}::{name}"
    is_excused = proof.startswith(("does not apply: ", "not met: "))
    if is_excused:
        assert len(proof.partition(": ")[2]) > 10
    else:
        # Only names of tests.
        assert NAMED.sub("", proof).replace("<br>", "") == ""
        assert NAMED.search(proof)


def test_few_requirements_are_unmet():
    """A new unmet requirement has to be added here as well."""
    not_met = [one for row in rows() if row[3].startswith("not met: ") for one in ids(row)]
    assert sorted(one for one in not_met if not one.endswith(" (L3)")) == [
        "10.4.1", "13.2.1", "16.4.3", "5.4.3", "6.5.2",
    ]  # fmt: skip
