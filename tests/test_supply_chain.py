"""What we install: locked by hash, listed with its licence, and looked after."""

import fnmatch
import json
import re
import tomllib
from pathlib import Path

import pytest

from scripts import licences
from scripts.locked import OURSELVES, pins

ROOT = Path(__file__).parents[1]
SETS = sorted(path.stem for path in (ROOT / "requirements").glob("*.txt"))
OURS = {"runtime", "test", "bench", "audit"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def wanted(requirements: list[object]) -> set[str]:
    """The names of what is asked for, without versions, extras and markers."""
    found = (re.match(r"[\w.-]+", one) for one in requirements if isinstance(one, str))
    return {name[0].lower() for name in found if name}


def test_there_are_sets_to_look_at():
    assert set(SETS) >= OURS
    assert len(pins("runtime")) > 50


@pytest.mark.parametrize("name", SETS)
def test_every_file_that_is_installed_is_known_by_its_hash_and_comes_from_no_named_place(name):
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins(name)) > 0
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
    assert not re.search(r"https?://|--index|--find-links|git\+| @ ", text)


def test_all_that_the_project_asks_for_is_locked():
    locked = {pin.name for pin in pins("runtime")}
    assert wanted(PROJECT["project"]["dependencies"]) <= locked
    assert wanted(PROJECT["dependency-groups"]["audit"]) <= {pin.name for pin in pins("audit")}


@pytest.mark.parametrize("name", ["test", "bench"])
def test_the_sets_of_one_environment_agree(name):
    runtime = {pin.name: pin.version for pin in pins("runtime")}
    here = {pin.name: pin.version for pin in pins(name)}
    assert {one: here[one] for one in runtime} == runtime


# --- Licences --------------------------------------------------------------------------------


def test_every_licence_is_listed_as_what_is_installed_says():
    listed = (ROOT / "docs" / "licences.md").read_text()
    assert listed == licences.page(), "make licences"


def test_every_licence_may_come_along_with_a_program_under_mit():
    assert PROJECT["project"]["license"] == "MIT"
    for pin in pins("runtime"):
        assert set(licences.named(licences.licence(pin.name))) <= licences.ACCEPTED
    for never in ("GPL-3.0-only", "AGPL-3.0-only", "SSPL-1.0", ""):
        assert never not in licences.ACCEPTED


def test_what_nobody_has_read_is_not_guessed(monkeypatch):
    with pytest.raises(ValueError, match="not installed"):
        licences.licence("nothing-of-this-name")
    monkeypatch.setattr(licences, "metadata", lambda name: {"License": "GPL-3.0-only"})
    with pytest.raises(ValueError, match="judge it"):
        licences.licence("django")


def test_what_was_read_is_still_installed():
    assert set(licences.READ) <= {pin.name for pin in pins("runtime")}


# --- The bill of materials -------------------------------------------------------------------

SBOM = json.loads((ROOT / "docs" / "sbom.json").read_text())


def test_the_bill_of_materials_lists_what_is_locked_and_under_which_licence():
    assert (SBOM["bomFormat"], SBOM["specVersion"]) == ("CycloneDX", "1.6")
    listed = {
        (part["name"], part["version"], part["purl"], part["licenses"][0]["expression"])
        for part in SBOM["components"]
    }
    assert listed == {
        (pin.name, pin.version, f"pkg:pypi/{pin.name}@{pin.version}", licences.licence(pin.name))
        for pin in pins("runtime")
    }, "make sbom"


def test_it_says_who_wants_what():
    graph = {one["ref"]: set(one.get("dependsOn", [])) for one in SBOM["dependencies"]}
    refs = {pin.name: f"pkg:pypi/{pin.name}@{pin.version}" for pin in pins("runtime")}
    assert graph[refs["authlib"]] >= {refs["cryptography"]}
    direct = wanted(PROJECT["project"]["dependencies"])
    assert {refs[name] for name in direct} <= graph[OURSELVES]
    reached, found = {OURSELVES}, {OURSELVES}
    while found:
        found = {one for ref in found for one in graph[ref]} - reached
        reached |= found
    assert reached == {OURSELVES, *refs.values()}


def test_nothing_in_it_depends_on_when_or_where_it_was_made():
    assert "serialNumber" not in SBOM
    assert "timestamp" not in SBOM["metadata"]
    assert str(ROOT) not in json.dumps(SBOM)


# --- Who looks after it ----------------------------------------------------------------------


def test_the_audit_looks_at_every_set_of_ours_and_takes_no_shrug_for_an_answer():
    script = (ROOT / "scripts" / "audit").read_text()
    (looked_at,) = re.findall(r"for set in (.+); do", script)
    assert set(looked_at.split()) == OURS
    assert {"--strict", "--require-hashes"} <= set(re.findall(r"--[\w-]+", script))
    for target in ("audit", "licences", "sbom"):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_updates_come_for_every_file_that_pins_something():
    renovate = json.loads((ROOT / "renovate.json").read_text())
    assert {"pip_requirements", "pep621", "npm"} == set(renovate["enabledManagers"])
    (pattern,) = renovate["pip_requirements"]["managerFilePatterns"]
    for name in SETS:
        path = f"requirements/{name}.txt"
        assert re.search(pattern.strip("/"), path)
        rules = [
            rule
            for rule in renovate["packageRules"]
            if any(fnmatch.fnmatch(path, glob) for glob in rule.get("matchFileNames", []))
        ]
        # In one group with those that it has to agree with, or said to stay as it is.
        assert len(rules) == 1, path
        assert rules[0].get("enabled", True) == (name in OURS), path
