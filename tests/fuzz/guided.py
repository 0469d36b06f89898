"""Runs a judge of bytes: guided by what its input covers where atheris is, at random elsewhere."""

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
# Bytes. Longer input finds nothing that shorter does not, and takes its time.
LONGEST = 512


def instrumented() -> AbstractContextManager[Any]:
    """What is imported inside tells which of its branches were taken."""
    if not HAS_ATHERIS:
        return nullcontext()
    import atheris

    return atheris.instrument_imports(include=["apikeys", "fastlane"])


def run(judge: Callable[[bytes], None], seeds: Sequence[bytes], arguments: list[str]) -> None:
    """Ends the process: with 0, if the judge found nothing wrong.

    seeds: what the search begins with.
    arguments: libFuzzer's own, as a command line gives them.
    """
    for seed in seeds:
        judge(seed)
    if not HAS_ATHERIS:
        _run_at_random(judge, seeds, arguments)
        return
    import atheris

    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds):
            (Path(folder) / str(number)).write_bytes(seed)
        # Into the first folder goes what is found: into the caller's own, where there is one.
        atheris.Setup([*arguments, folder, f"-max_len={LONGEST}", "-len_control=0"], judge)
        atheris.Fuzz()


def _run_at_random(
    judge: Callable[[bytes], None], seeds: Sequence[bytes], arguments: list[str]
) -> None:
    stated = re.search(r"-runs=(\d+)", " ".join(arguments))
    runs = int(stated[1]) if stated else 100_000
    source = random.Random(1)  # noqa: S311 (the same each time, on purpose)
    for _ in range(runs):
        sent = bytearray(source.choice(seeds) or b"a")
        for _change in range(source.randrange(1, 8)):
            sent[source.randrange(len(sent))] = source.randrange(256)
        judge(bytes(sent))
        judge(source.randbytes(source.randrange(LONGEST)))
    sys.stderr.write(f"Done {runs} runs\n")
