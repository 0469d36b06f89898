"""Run a check on bytes: coverage-guided where atheris is installed, at random elsewhere."""

import importlib.util
import random
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

HAS_ATHERIS = importlib.util.find_spec("atheris") is not None
# Bytes. Longer input takes more time and finds no more.
LONGEST = 512


def instrumented() -> AbstractContextManager[Any]:
    """Return a context in which imports are instrumented for coverage."""
    if not HAS_ATHERIS:
        return nullcontext()
    import atheris

    return atheris.instrument_imports(include=["apikeys"])


def run(check: Callable[[bytes], None], seeds: Sequence[bytes], arguments: list[str]) -> None:
    """Run the check, and exit the process: with 0 if it found nothing.

    seeds: initial inputs.
    arguments: libFuzzer's, as on a command line.
    """
    for seed in seeds:
        check(seed)
    if not HAS_ATHERIS:
        _run_at_random(check, seeds, arguments)
        return
    import atheris

    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds):
            (Path(folder) / str(number)).write_bytes(seed)
        # New inputs go to the first folder: the caller's, if there is one.
        atheris.Setup([*arguments, folder, f"-max_len={LONGEST}", "-len_control=0"], check)
        atheris.Fuzz()


def _run_at_random(
    check: Callable[[bytes], None], seeds: Sequence[bytes], arguments: list[str]
) -> None:
    stated = re.search(r"-runs=(\d+)", " ".join(arguments))
    runs = int(stated[1]) if stated else 100_000
    source = random.Random(1)  # noqa: S311 (the same each time, on purpose)
    for _ in range(runs):
        sent = bytearray(source.choice(seeds) or b"a")
        for _change in range(source.randrange(1, 8)):
            sent[source.randrange(len(sent))] = source.randrange(256)
        check(bytes(sent))
        check(source.randbytes(source.randrange(LONGEST)))
    sys.stderr.write(f"Done {runs} runs\n")
