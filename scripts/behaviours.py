"""Print the names of the tests as sentences, by folder and file.

    python scripts/behaviours.py [FOLDER]

FOLDER is the root of a checkout (default: this one), so that two commits can be compared.
"""

import ast
import sys
from pathlib import Path


def behaviours(file: Path) -> list[str]:
    """Return the names of the tests in `file` as sentences, in their order."""
    return [
        node.name.removeprefix("test_").replace("_", " ")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]


def main(root: Path) -> None:
    folder = None
    for file in sorted((root / "tests").rglob("test_*.py")):
        if file.parent != folder:
            folder = file.parent
            print(f"\n# {folder.relative_to(root)}")
        print(f"\n{file.name}: {(ast.get_docstring(ast.parse(file.read_text())) or '').strip()}")
        for sentence in behaviours(file):
            print(f"- {sentence}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1])
