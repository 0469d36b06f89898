"""Read environment variables, record what each one means, and report all errors together.

`config.settings` says which variables there are. `scripts/settings_doc.py` writes docs/settings.md
from what is recorded here. On environs: docs/adr/0026-libraries-considered.md says what it lacks.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, overload

from environs import EnvValidationError, FileAwareEnv, validate

# Shorter names of other programs may differ by a letter from one of these.
_MIN_LENGTH_TO_COMPARE = 8


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One environment variable, as docs/settings.md shows it."""

    name: str
    section: str
    kind: str
    """What the value is, with its range: "integer, 1 to 256"."""
    default: str
    """The default in Markdown, "required" or the conditions that it depends on."""
    help: str
    old_name: str | None = None


class Environment(FileAwareEnv):
    """environs' reader with `_FILE` variants, descriptions and one report of all errors.

    Each method reads one variable, strips blanks around its value, and takes an empty one as if it
    were not set. After an error it returns the default, so that the other variables are read too.

    help: what the variable means, in one or two sentences of Markdown.
    default_help: what docs/settings.md says where the default depends on other variables.
    old_name: the variable's name in the release before. It is still read, for one release.
    """

    def __init__(self) -> None:
        super().__init__(eager=False, strip_whitespace=True)
        self.variables: dict[str, Variable] = {}
        self.renamed: dict[str, str] = {}
        """The new name of each variable that is set by its former one."""
        self._section = ""

    def section(self, title: str) -> None:
        """Set the heading in docs/settings.md of the variables that are read from here on."""
        self._section = title

    @overload
    def text(
        self, name: str, *, help: str, default: str, default_help: str | None = None,
        required: bool = False, choices: Sequence[str] = (), kind: str = "text",
    ) -> str: ...  # fmt: skip
    @overload
    def text(
        self, name: str, *, help: str, default: None = None, default_help: str | None = None,
        required: bool = False, choices: Sequence[str] = (), kind: str = "text",
    ) -> str | None: ...  # fmt: skip
    def text(
        self,
        name: str,
        *,
        help: str,
        default: str | None = None,
        default_help: str | None = None,
        required: bool = False,
        choices: Sequence[str] = (),
        kind: str = "text",
    ) -> str | None:
        """Return a text, as it is or one of `choices`."""
        if choices:
            kind = " or ".join(f"`{choice}`" for choice in choices)
        self._record(name, kind, _code(default), default_help, help)
        check = validate.OneOf(choices) if choices else None
        value: str | None = (
            self.str(name, validate=check)
            if required
            else self.str(name, default=default, validate=check)
        )
        return default if value is None else value

    def boolean(
        self,
        name: str,
        *,
        help: str,
        default: bool,
        default_help: str | None = None,
        old_name: str | None = None,
    ) -> bool:
        self._record(
            name, "`1` or `0`", "on" if default else "off", default_help, help, old_name=old_name
        )
        value: bool | None = self.bool(name, default=default)
        return default if value is None else value

    def integer(
        self,
        name: str,
        *,
        help: str,
        default: int,
        least: int,
        most: int,
        default_help: str | None = None,
        old_name: str | None = None,
    ) -> int:
        """Return an integer from `least` to `most`."""
        kind = f"integer, {least} to {most}"
        self._record(name, kind, _code(default), default_help, help, old_name=old_name)
        value = self.int(name, default=default, validate=_range(least, most))
        return default if value is None else value

    def days_or_never(
        self,
        name: str,
        *,
        help: str,
        default: timedelta | None = None,
        default_help: str | None = None,
        least: int = 1,
        most: int,
    ) -> timedelta | None:
        """Return a number of days from `least` to `most`, or None for `never`."""
        kind = f"days, {least} to {most}, or `never`"
        self._record(name, kind, "`never`", default_help, help)
        value: str | None = self.str(name, default=None)
        if value is None:
            return default
        if value.lower() == "never":
            return None
        if not re.fullmatch(r"[0-9]{1,9}", value) or not least <= int(value) <= most:
            self.add_error(name, f"must be a number of days from {least} to {most}, or never.")
            return default
        return timedelta(days=int(value))

    def seconds(
        self,
        name: str,
        *,
        help: str,
        default: float,
        least: float,
        most: float,
        old_name: str | None = None,
    ) -> float:
        """Return a number of seconds from `least` to `most`."""
        kind = f"seconds, {least:g} to {most:.12g}"
        self._record(name, kind, f"`{default:g}`", None, help, old_name=old_name)
        value = self.float(name, default=default, validate=_range(least, most))
        return default if value is None else value

    def strings(
        self, name: str, *, help: str, default_help: str = "none", kind: str = "list"
    ) -> list[str]:
        """Return a list, without empty items and repetitions. Commas or blanks separate items."""
        self._record(name, kind, "none", default_help, help)
        value: str = self.str(name, default=None) or ""
        return list(dict.fromkeys(item for item in re.split(r"[,\s]+", value) if item))

    @overload
    def file_path(
        self, name: str, *, help: str, default: Path, default_help: str,
        old_name: str | None = None,
    ) -> Path: ...  # fmt: skip
    @overload
    def file_path(
        self, name: str, *, help: str, default: Path | None = None, default_help: str = "none",
        old_name: str | None = None,
    ) -> Path | None: ...  # fmt: skip
    def file_path(
        self,
        name: str,
        *,
        help: str,
        default: Path | None = None,
        default_help: str = "none",
        old_name: str | None = None,
    ) -> Path | None:
        self._record(name, "path", default_help, None, help, old_name=old_name)
        value: Path | None = self.path(name, default=default)
        return default if value is None else value

    def is_set(self, name: str) -> bool:
        """Return whether a variable has a value, in the environment or in a file."""
        return self._get_value(name, None) is not None

    def add_error(self, name: str, message: str) -> None:
        """Add an error that the reader can't see, such as two variables that contradict."""
        if message not in self._errors[name]:
            self._errors[name].append(message)

    def report_errors(self) -> None:
        """End the process with one report of all variables that are missing or not understood.

        Raises SystemExit: a traceback would hide the report.
        """
        self._find_misspelt_names()
        new_names = {new: old for old, new in self.renamed.items()}
        errors = sorted(self._errors.items())
        try:
            self.seal()
        except EnvValidationError:
            lines = []
            for name, messages in errors:
                text = " ".join(map(str, messages))
                if old := new_names.get(name):
                    text = f"{text} (It is set by its former name, {old}.)"
                lines.append(f"  {name}: {text}")
            raise SystemExit(
                "The platform can't start. These environment variables need attention:\n"
                + "\n".join(lines)
                + "\ndocs/settings.md says what each of them means."
            ) from None

    def _record(
        self,
        name: str,
        kind: str,
        default: str,
        default_help: str | None,
        help: str,
        *,
        old_name: str | None = None,
    ) -> None:
        self.variables[name] = Variable(
            name=name,
            section=self._section,
            kind=kind,
            default=default if default_help is None else default_help,
            help=help,
            old_name=old_name,
        )

    def _get_value(self, env_key: str, default: Any) -> Any:
        value = self._read(env_key, env_key)
        variable = self.variables.get(env_key)
        if variable and (old := variable.old_name):
            former = self._read(old, env_key)
            if former is not None:
                self.renamed[old] = env_key
                if value is not None and value != former:
                    self.add_error(
                        env_key, f"and its former name {old} have different values: remove {old}."
                    )
                value = former if value is None else value
        return default if value is None else value

    def _read(self, key: str, name: str) -> Any:
        """Return the value of the variable `key`, or None. Errors are reported for `name`."""
        if os.environ.get(key) and os.environ.get(f"{key}_FILE"):
            self.add_error(name, f"and {key}_FILE are both set: keep one of them.")
        try:
            value = super()._get_value(key, None)
        except (ValueError, OSError) as error:
            # environs raises immediately for a `_FILE` that can't be read, also when not eager.
            self.add_error(name, str(error))
            return None
        if isinstance(value, str):
            value = value.strip()
        # `PORT= make run` means "as if it were not set".
        return None if value == "" else value

    def _find_misspelt_names(self) -> None:
        """Report variables that are one letter away from a known one: they would be ignored."""
        names = {
            name
            for variable in self.variables.values()
            for name in (variable.name, variable.old_name)
            if name
        }
        names |= {f"{name}_FILE" for name in names}
        known = [name for name in names if len(name) >= _MIN_LENGTH_TO_COMPARE]
        for name in os.environ:
            if len(name) >= _MIN_LENGTH_TO_COMPARE and name not in names:
                for meant in known:
                    if _is_nearly(name, meant):
                        self.add_error(name, f"is no setting of the platform. Is it {meant}?")


def _code(default: object) -> str:
    return "none" if default is None else f"`{default}`" if default != "" else "empty"


def _range(least: float, most: float) -> validate.Range:
    return validate.Range(least, most, error="must be from {min} to {max}.")


def _is_nearly(name: str, other: str) -> bool:
    """Return whether two names differ by a plural, one letter, or two that are swapped."""
    if _singular(name) == _singular(other):
        return True
    if abs(len(name) - len(other)) > 1:
        return False
    differ = (at for at, (one, two) in enumerate(zip(name, other, strict=False)) if one != two)
    start = next(differ, min(len(name), len(other)))
    rest, other_rest = name[start:], other[start:]
    return (
        rest[1:] == other_rest[1:]
        or rest[1:] == other_rest
        or rest == other_rest[1:]
        or (rest[1:2] + rest[:1] + rest[2:] == other_rest and len(rest) > 1)
    )


def _singular(name: str) -> str:
    return f"{name.removesuffix('IES')}Y" if name.endswith("IES") else name.removesuffix("S")
