"""Dependencies: locked by hash, listed with licences, and updated."""

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
OURS = {"runtime", "extras", "test", "bench", "mutants", "audit", "deploy"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def wanted(requirements: list[object]) -> set[str]:
    """Return the names of requirements, without versions, extras and markers."""
    found = (re.match(r"[\w.-]+", one) for one in requirements if isinstance(one, str))
    return {name[0].lower() for name in found if name}


def test_there_are_lock_files_to_check():
    assert set(SETS) >= OURS
    assert len(pins("runtime")) > 50


@pytest.mark.parametrize("name", SETS)
def test_every_locked_file_has_a_hash_and_no_index_url(name):
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins(name)) > 0
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
    assert not re.search(r"https?://|--index|--find-links|git\+| @ ", text)


def test_all_dependencies_are_locked():
    locked = {pin.name for pin in pins("runtime")}
    assert wanted(PROJECT["project"]["dependencies"]) <= locked
    assert wanted(PROJECT["dependency-groups"]["audit"]) <= {pin.name for pin in pins("audit")}


@pytest.mark.parametrize(
    ("name", "base"),
    [("extras", "runtime"), ("test", "extras"), ("bench", "runtime"), ("mutants", "test")],
)
def test_the_lock_files_of_one_environment_agree(name, base):
    wanted = {pin.name: pin.version for pin in pins(base)}
    here = {pin.name: pin.version for pin in pins(name)}
    assert {one: here[one] for one in wanted} == wanted


def test_production_has_no_development_libraries():
    groups = PROJECT["dependency-groups"]
    development = wanted(groups["test"]) | wanted(groups["bench"])
    assert {"pytest", "django-rest-knox"} <= development
    assert {pin.name for pin in pins("runtime")} & development == set()


# --- Licences --------------------------------------------------------------------------------


def test_every_licence_is_listed_as_installed():
    listed = (ROOT / "docs" / "licences.md").read_text()
    assert listed == licences.page(), "make licences"


def test_every_licence_is_compatible_with_mit():
    assert PROJECT["project"]["license"] == "MIT"
    for pin in pins("extras"):
        assert set(licences.named(licences.licence(pin.name))) <= licences.ACCEPTED
    for never in ("GPL-3.0-only", "AGPL-3.0-only", "SSPL-1.0", ""):
        assert never not in licences.ACCEPTED


def test_a_licence_nobody_has_reviewed_is_not_guessed(monkeypatch):
    with pytest.raises(ValueError, match="not installed"):
        licences.licence("nothing-of-this-name")
    monkeypatch.setattr(licences, "metadata", lambda name: {"License": "GPL-3.0-only"})
    with pytest.raises(ValueError, match="review"):
        licences.licence("django")


def test_every_reviewed_licence_is_still_installed():
    assert set(licences.READ) <= {pin.name for pin in pins("extras")}


# --- SBOM ------------------------------------------------------------------------------------

SBOM = json.loads((ROOT / "docs" / "sbom.json").read_text())


def test_the_sbom_lists_every_locked_package_with_its_licence():
    assert (SBOM["bomFormat"], SBOM["specVersion"]) == ("CycloneDX", "1.6")
    listed = {
        (part["name"], part["version"], part["purl"], part["licenses"][0]["expression"])
        for part in SBOM["components"]
    }
    assert listed == {
        (pin.name, pin.version, f"pkg:pypi/{pin.name}@{pin.version}", licences.licence(pin.name))
        for pin in pins("runtime")
    }, "make sbom"


def test_the_sbom_lists_dependencies():
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


def test_the_sbom_is_reproducible():
    assert "serialNumber" not in SBOM
    assert "timestamp" not in SBOM["metadata"]
    assert str(ROOT) not in json.dumps(SBOM)


# --- Updates ---------------------------------------------------------------------------------


def test_the_audit_covers_every_lock_file_and_fails_on_errors():
    script = (ROOT / "scripts" / "audit").read_text()
    (looked_at,) = re.findall(r"for set in (.+); do", script)
    assert set(looked_at.split()) == OURS
    assert {"--strict", "--require-hashes"} <= set(re.findall(r"--[\w-]+", script))
    for target in ("audit", "licences", "sbom"):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_updates_are_configured_for_every_lock_file():
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
        # Grouped with the packages that must have the same version, or explicitly pinned.
        assert len(rules) == 1, path
        assert rules[0].get("enabled", True) == (name in OURS), path
