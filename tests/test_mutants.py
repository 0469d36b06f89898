"""What `make mutants` rests on: its list of modules, and code that is replaced where it lives."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.mutants import settings, swap

ROOT = Path(__file__).parents[1]


def test_the_modules_and_tests_that_it_names_are_there():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutants"]
    assert settings.Settings.read().files([]) == table["modules"]
    for path in [*table["modules"], *table["tests"], *table["ignore"]]:
        assert (ROOT / path).exists(), path


def test_a_module_that_is_not_there_is_not_passed_over():
    with pytest.raises(SystemExit, match=r"keys/gone\.py"):
        settings.Settings(("keys/gone.py",), (), ()).files([])


def test_each_removed_defence_is_in_its_file_once():
    defences = tomllib.loads((ROOT / "scripts/mutants/defences.toml").read_text())["defence"]
    assert len(defences) == 116
    for defence in defences:
        source = (ROOT / defence["file"]).read_text()
        assert source.count(defence["old"]) == 1, defence["what"]


SOURCE = """
import functools
from contextlib import contextmanager


class Lock:
    @property
    def opens(self):
        return 1 > 2

    @contextmanager
    def held(self):
        yield 1 + 1


@functools.cache
def size():
    return 7


def at_least_one(view):
    def guarded(number):
        return view(number) if number >= 1 else None

    return guarded


@at_least_one
def shown(number):
    return number


def outer():
    return [number + 1 for number in (1, 2)], (lambda: 5)()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    monkeypatch.setattr(swap, "ROOT", tmp_path)
    (tmp_path / "doors.py").write_text(SOURCE)
    names: dict[str, object] = {}
    exec(compile(SOURCE, str(tmp_path / "doors.py"), "exec"), names)  # noqa: S102
    return names


def apply(old: str, new: str, qualname: str = "") -> None:
    swap.apply(
        swap.live_functions(["doors.py"]),
        file="doors.py", old=SOURCE, new=SOURCE.replace(old, new), qualname=qualname,
    )  # fmt: skip


def test_code_changes_where_decorators_hold_on_to_it(module):
    lock = module["Lock"]()
    assert not lock.opens
    apply("1 > 2", "1 < 2", "Lock.opens")
    assert lock.opens
    apply("1 + 1", "1 - 1", "Lock.held")
    with lock.held() as held:
        assert held == 0


def test_code_within_a_function_changes_with_it(module):
    assert module["outer"]() == ([2, 3], 5)
    apply("number + 1", "number - 1")
    assert module["outer"]() == ([0, 1], 5)
    apply("lambda: 5", "lambda: 6")
    assert module["outer"]() == ([2, 3], 6)


def test_what_a_decorator_made_earlier_changes_with_it(module):
    assert module["shown"](0) is None
    apply("number >= 1", "number >= 0", "at_least_one")
    assert module["shown"](0) == 0


def test_what_a_cache_holds_is_given_up(module):
    assert module["size"]() == 7
    apply("7", "8")
    assert module["size"]() == 7
    for cache in swap.caches():
        if cache.__wrapped__.__name__ == "size":
            cache.cache_clear()
    assert module["size"]() == 8


@pytest.mark.parametrize(
    ("old", "new"), [("1 > 2", "1 > 2"), ("def size", "def sizes")], ids=["the same", "renamed"]
)
def test_what_can_not_be_applied_does_not_count_as_survived(module, old, new):
    with pytest.raises(swap.NotApplied):
        apply(old, new)
