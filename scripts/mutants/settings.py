"""The project's folder, and the settings of `[tool.mutants]` in pyproject.toml."""

import fnmatch
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Settings:
    """The table `[tool.mutants]`."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    ignore: tuple[str, ...]

    @classmethod
    def read(cls) -> "Settings":
        table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutants"]
        return cls(*(tuple(table[name]) for name in ("modules", "tests", "ignore")))

    def files(self, patterns: Sequence[str]) -> list[str]:
        """Return the modules to change: all, or those that one of `patterns` matches."""
        chosen = [
            module
            for module in self.modules
            if not patterns or any(fnmatch.fnmatch(module, f"*{part}*") for part in patterns)
        ]
        if missing := [module for module in chosen if not (ROOT / module).is_file()]:
            raise SystemExit(f"[tool.mutants] modules: there is no {', '.join(missing)}")
        return chosen
