"""Fail on words that hide a standard term: in names, comments, docstrings, docs and user texts.

    python -m scripts.check_words [file or folder ...]

Without arguments: every tracked file. Translations are not checked.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

from scripts.texts import texts

# Word and standard term. docs/architecture.md has the glossary.
WORDS = {
    r"whoever|whomever|whosoever": "name the subject",
    r"told|hears?|heard": "notify, invalidate, receive, report",
    r"deeds?": "admin action",
    r"trails?": "audit log",
    r"lane": "validation cache, cached response",
    r"rooms?": "app, package",
    r"doors?": "login, endpoint, permission check",
    # Except in the names of two targets of the Makefile, and in those of their variables.
    r"(?<!make )(?<!test-)fleets?(?!:| test-fleet| SHORT| ONLY)": "cluster, hosts",
    r"epochs?": "version table",
    r"strangers?": "anonymous client",
    r"once more": "again",
    # A proxy in front of a server, and a server behind a proxy, are standard terms.
    r"(?<!proxy )(?<!gateway )in front of": "before, above",
    # "Log in" is the verb. Not in addresses and identifiers, such as icons.svg#log-out.
    r"(?<![\w/#])log-ins?": "login",
    r"behind(?![ -](?:(?:a|the)[ -])?(?:proxy|gateway|nginx|HAProxy|Caddy))": "name the part",
}
# In texts for users: docs/translating.md has their vocabulary.
USER_WORDS = {
    **WORDS,
    r"nobody|somebody|anybody|everybody": "no one, someone, anyone, everyone; or name the person",
    r"works? no more": "no longer works",
    r"(?:go|goes|going) on": "continue",
    r"keep it": "cancel",
    r"(?:this|the) platform": "this site",
    r"second factors?": "two-factor authentication",
    r"mails?(?! server)": "email",
    r"roll(?:ed|s)?": "rotate",
    r"kept": "stored, saved",
    r"by which|one's": "write a plain sentence",
    r"unproved": "not verified",
    r"log in page": "login page",
}
# In documents, outside code. The tables of docs/translating.md are in other languages.
DOCUMENT_WORDS = {r"e-mails?": "email"}
CODE = re.compile(r"`[^`]*`")
# Strings in these files are texts for users, also without gettext.
FOR_USERS = ("apikeys/api/", "clients/python/src/", "oauth/endpoints/", "oauth/server/")
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


def main(paths: list[str]) -> int:
    listed = subprocess.run(
        ["git", "ls-files", "--", *paths], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    found = _check_texts(set(listed))
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
            found += _report(name, line, _split(ALLOWED.sub("", text)), WORDS)
            if path.suffix == ".md" and name != "docs/translating.md":
                found += _report(name, line, CODE.sub("", text), DOCUMENT_WORDS)
    return 1 if found else 0


def _check_texts(listed: set[str]) -> int:
    """Report words in texts for users; return how many."""
    found = 0
    for text in texts():
        if text.path in listed and not text.path.startswith(FOR_USERS):
            found += _report(text.path, text.line, f"{text.singular}\n{text.plural}", USER_WORDS)
    for name in sorted(listed):
        if name.startswith(FOR_USERS) and name.endswith(".py"):
            for line, string in _strings(Path(name).read_text()):
                found += _report(name, line, string, USER_WORDS)
    return found


def _report(name: str, line: int, text: str, words: dict[str, str]) -> int:
    """Print where `words` occur in `text`; return how often."""
    pattern = re.compile(rf"(?<![A-Za-z])({'|'.join(words)})(?![A-Za-z])", re.IGNORECASE)
    found = 0
    for match in pattern.finditer(text):
        # The whole text: a word may be allowed by what is before or after it.
        term = next(
            term
            for word, term in words.items()
            if any(part[0] == match[0] for part in re.finditer(word, text, re.IGNORECASE))
        )
        print(f"{name}:{line}: {match[0]!r}: {term}")
        found += 1
    return found


def _strings(source: str) -> Iterator[tuple[int, str]]:
    """Yield line numbers and strings with several words, without docstrings."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            text = node.value
            if isinstance(text, str) and " " in text:
                yield node.lineno, text


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
