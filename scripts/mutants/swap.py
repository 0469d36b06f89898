"""Apply a mutant to this process: replace the code of live functions, without another import.

This covers methods, properties, closures and functions wrapped by decorators, and keeps the
database, the test modules and Django as they are.
"""

import functools
import gc
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType

from scripts.mutants.settings import ROOT

Key = tuple[str, str, int]


class NotApplied(Exception):  # noqa: N818
    """No live function has this code, or it can't take the changed one."""


def live_functions(files: list[str]) -> dict[Key, list[FunctionType]]:
    """Return the functions of these files by file, qualified name and first line."""
    paths = {str(ROOT / file): file for file in files}
    found: dict[Key, list[FunctionType]] = {}
    for one in gc.get_objects():
        if type(one) is FunctionType and one.__code__.co_filename in paths:
            code = one.__code__
            key = paths[code.co_filename], code.co_qualname, code.co_firstlineno
            found.setdefault(key, []).append(one)
    return found


def caches() -> list["functools._lru_cache_wrapper[object]"]:
    """Return the project's functions with functools.cache, which may hold results of old code."""
    found = []
    for one in gc.get_objects():
        # Not isinstance, which evaluates lazy objects.
        if type(one) is functools._lru_cache_wrapper:
            code = getattr(getattr(one, "__wrapped__", None), "__code__", None)
            path = Path(code.co_filename) if code else ROOT.parent
            if path.is_relative_to(ROOT) and ".venv" not in path.parts:
                found.append(one)
    return found


def apply(
    live: dict[Key, list[FunctionType]], *, file: str, old: str, new: str, qualname: str = ""
) -> None:
    """Replace the code of the functions that differ between two texts of a file.

    qualname: the one function to replace; empty: all that differ. Raises NotApplied.
    """
    path = str(ROOT / file)
    before, after = (list(_functions(compile(text, path, "exec"))) for text in (old, new))
    # The change may remove an inner function; then its outer function is replaced.
    outer = [
        [one.co_qualname for one in found if "<" not in one.co_qualname]
        for found in (before, after)
    ]
    if outer[0] != outer[1]:
        raise NotApplied("a function appeared or is gone")
    left = {
        one.co_qualname: [other for other in after if other.co_qualname == one.co_qualname]
        for one in after
    }
    done = False
    for was in before:
        if not left.get(was.co_qualname):
            continue
        now = left[was.co_qualname].pop(0)
        is_meant = f"{was.co_qualname}.".startswith(f"{qualname}." if qualname else "")
        if not is_meant or _same(was, now):
            continue
        for function in live.get((file, was.co_qualname, was.co_firstlineno), []):
            try:
                function.__code__ = now
            except ValueError as error:
                raise NotApplied(str(error)) from None
            done = True
    if not done:
        raise NotApplied("no live function, or the same code")


def with_inner(codes: Iterable[CodeType]) -> Iterator[CodeType]:
    """Yield the code of these functions and of those within them."""
    for one in codes:
        yield one
        yield from with_inner(const for const in one.co_consts if isinstance(const, CodeType))


def _functions(code: CodeType) -> Iterator[CodeType]:
    """Yield all functions, also those within others, which decorators return."""
    for one in code.co_consts:
        if isinstance(one, CodeType):
            if one.co_flags & 0x0002:  # CO_NEWLOCALS: a function; a class body has no such flag
                yield one
            yield from _functions(one)


def _same(one: CodeType, other: CodeType) -> bool:
    def plain(code: CodeType) -> object:
        return (
            code.co_code,
            code.co_names,
            code.co_varnames,
            code.co_freevars,
            [
                plain(const) if isinstance(const, CodeType) else (type(const), const)
                for const in code.co_consts
            ],
        )

    return plain(one) == plain(other)
