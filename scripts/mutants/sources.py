"""The mutants of a source file: one small change each, by mutmut's operators.

Only the bodies of functions and methods are changed, not the code that runs at import (module
constants, class attributes, decorators, default arguments), annotations and texts for users.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, cast

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

from scripts.mutants.settings import ROOT

# Calls with texts for users, and calls that write to the log.
_TEXTS: Final = frozenset(
    {"_", "gettext", "gettext_lazy", "ngettext", "ngettext_lazy", "npgettext", "pgettext"}
)
_LOGGERS: Final = frozenset({"logger", "logging", "log"})
# Skipped by mutmut too: without an argument they raise in every test.
_PLAIN: Final = frozenset({"len", "isinstance", "issubclass", "cast", "super"})


@dataclass(frozen=True)
class Mutant:
    """One change. `qualname` and `first_line` name the function whose body has it."""

    file: str
    number: int
    qualname: str
    lines: tuple[int, int]
    before: str = field(compare=False)
    after: str = field(compare=False)

    @property
    def name(self) -> str:
        return f"{self.file}:{self.lines[0]} {self.qualname} #{self.number}"


class Source:
    """A file and its mutants."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.text = (ROOT / file).read_text()
        wrapper = MetadataWrapper(cst.parse_module(self.text))
        visitor = _Visitor(file)
        self._module = wrapper.visit(visitor)
        self.mutants = visitor.found
        self._nodes = visitor.nodes

    def mutated(self, mutant: Mutant) -> str:
        """Return the text of the file with `mutant`."""
        old, new = self._nodes[mutant.number]
        return cast("cst.Module", self._module.deep_replace(old, new)).code


def sample(mutants: list[Mutant], size: int, seed: str) -> list[Mutant]:
    """Return `size` mutants, the same ones for the same seed; all of them if `size` is 0."""
    if not size or len(mutants) <= size:
        return mutants
    return sorted(
        random.Random(seed).sample(mutants, size),  # noqa: S311 (a sample, not a secret)
        key=lambda one: one.number,
    )


class _Visitor(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file
        self.found: list[Mutant] = []
        self.nodes: list[tuple[cst.CSTNode, cst.CSTNode]] = []
        self._names: list[str] = []
        self._statements: list[tuple[int, int]] = []
        # Depth of nested functions. A class in a function is a part of that function.
        self._depth = 0

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Annotation | cst.Decorator | cst.Parameters) and not (
            isinstance(node, cst.Parameters) and self._depth > 1
        ):
            return False
        if isinstance(node, cst.ClassDef | cst.FunctionDef) and not self._depth:
            self._names.append(node.name.value)
        if isinstance(node, cst.FunctionDef):
            self._depth += 1
        if isinstance(node, cst.SimpleStatementLine):
            self._statements.append(self._span(node))
        if isinstance(node, cst.Call) and _is_left_alone(node):
            return False
        if self._depth and not isinstance(node, cst.FunctionDef):
            for mutated in _changes(node):
                self._add(node, mutated)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.SimpleStatementLine):
            self._statements.pop()
        if isinstance(original_node, cst.FunctionDef):
            self._depth -= 1
        if isinstance(original_node, cst.ClassDef | cst.FunctionDef) and not self._depth:
            self._names.pop()

    def _add(self, node: cst.CSTNode, mutated: cst.CSTNode) -> None:
        at = self._span(node)
        # A statement over several lines: the interpreter reports some of them only.
        around = self._statements[-1] if self._statements else at
        empty = cst.Module([])
        self.found.append(
            Mutant(
                file=self.file,
                number=len(self.nodes),
                qualname=".".join(self._names),
                lines=(around[0], around[1]),
                before=empty.code_for_node(node).strip(),
                after=empty.code_for_node(mutated).strip(),
            )
        )
        self.nodes.append((node, mutated))

    def _span(self, node: cst.CSTNode) -> tuple[int, int]:
        position = self.get_metadata(PositionProvider, node)
        return position.start.line, position.end.line


def _changes(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            yield from operator(node)


def _is_left_alone(call: cst.Call) -> bool:
    match call.func:
        case cst.Name(value=name):
            return name in _TEXTS | _PLAIN
        case cst.Attribute(value=cst.Name(value=name)):
            return name in _LOGGERS
    return False
