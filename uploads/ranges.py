"""Range requests (RFC 9110 §14): one range of bytes, with If-Range."""

import re
from dataclasses import dataclass
from typing import Final

# A number with more digits is larger than any file.
_ONE: Final = re.compile(r"bytes\s*=\s*([0-9]{0,18})-([0-9]{0,18})\s*", re.IGNORECASE)


class Unsatisfiable(Exception):  # noqa: N818 (an expected outcome)
    """The range begins after the end of the file."""


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A part of a file, in bytes."""

    start: int
    length: int

    def content_range(self, size: int) -> str:
        """Return the header Content-Range for a file of `size` bytes."""
        return f"bytes {self.start}-{self.start + self.length - 1}/{size}"


def parse(header: str, size: int) -> ByteRange | None:
    """Return the range of a file of `size` bytes that a header Range asks for.

    None: the whole file. A header that is malformed, or has another unit, is ignored as
    RFC 9110 §14.2 says, which also allows to ignore one with several ranges.
    Raise Unsatisfiable.
    """
    match = _ONE.fullmatch(header)
    if match is None or match[0] == "" or not (match[1] or match[2]):
        return None
    if not match[1]:
        # The last bytes.
        length = min(int(match[2]), size)
        if not length:
            raise Unsatisfiable
        return ByteRange(size - length, length)
    start = int(match[1])
    end = int(match[2]) if match[2] else size - 1
    if match[2] and end < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return ByteRange(start, min(end, size - 1) - start + 1)


def applies(if_range: str | None, *, etag: str, last_modified: str) -> bool:
    """Return whether a range may be answered: If-Range names the present content (§13.1.5)."""
    return if_range is None or if_range.strip() in {etag, last_modified}
