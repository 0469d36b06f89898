"""Fail on words that hide a standard term, in names, comments, docstrings and documentation.

    python scripts/check_words.py [file or folder ...]

Without arguments: every tracked file. Texts for users (gettext, templates, locale) are not checked.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

# Word and standard term. docs/architecture.md has the glossary.
WORDS = {
    r"whoever|whomever|whosoever": "name the subject",
    r"told|hears?|heard": "notify, invalidate, receive, report",
    r"deeds?": "admin action",
    r"trails?": "audit log",
    r"lane": "validation cache, cached response",
    r"rooms?": "app, package",
    r"doors?": "log-in, endpoint, permission check",
    r"fleets?": "cluster, hosts",
    r"epochs?": "version table",
    r"strangers?": "anonymous client",
    r"once more": "again",
    # A proxy in front of a server, and a server behind a proxy, are standard terms.
    r"(?<!proxy )(?<!gateway )in front of": "before, above",
    r"behind(?![ -](?:(?:a|the)[ -])?(?:proxy|gateway|nginx|HAProxy|Caddy))": "name the part",
}
# Messages are texts for users.
ALLOWED = re.compile(r"\{\"error\": .*\}")
NOT_CHECKED = (
    "CHANGELOG.md",
    "docs/settings.md",
    "locale/",
    "templates/",
    "requirements/",
    "docs/sbom.json",
)
PATTERN = re.compile(rf"(?<![A-Za-z])({'|'.join(WORDS)})(?![A-Za-z])", re.IGNORECASE)


def main(paths: list[str]) -> int:
    listed = subprocess.run(
        ["git", "ls-files", "--", *paths], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    found = 0
    for name in listed:
        path = Path(name)
        # Applied migrations stay as they are.
        if (
            name.startswith(NOT_CHECKED)
            or "/migrations/" in name
            or path == Path(__file__).relative_to(Path.cwd())
        ):
            continue
        if path.suffix == ".py":
            texts = _of_python(path.read_text())
        elif path.suffix in {".md", ".sh", ".toml", ".conf", ".cfg", ".lua"} or not path.suffix:
            texts = enumerate(path.read_text(errors="ignore").splitlines(), 1)
        else:
            continue
        for line, text in texts:
            for match in PATTERN.finditer(_split(ALLOWED.sub("", text))):
                term = next(
                    term for word, term in WORDS.items() if re.fullmatch(word, match[0], re.I)
                )
                print(f"{name}:{line}: {match[0]!r}: {term}")
                found += 1
    return 1 if found else 0


def _of_python(source: str) -> Iterator[tuple[int, str]]:
    """Yield line numbers and texts: names, comments and docstrings, no other strings."""
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings.add((first.lineno, first.col_offset))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in {tokenize.NAME, tokenize.COMMENT} or (
            token.type == tokenize.STRING and token.start in docstrings
        ):
            for number, text in enumerate(token.string.splitlines()):
                yield token.start[0] + number, text


def _split(text: str) -> str:
    """Return `text` with names split into words: some_name, SomeName."""
    return re.sub(r"([a-z])([A-Z])", r"\1 \2", text.replace("_", " "))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
