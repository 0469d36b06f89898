"""JSON of any size, written piece by piece: one row of a list is in memory at a time."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder


def json_object(members: Mapping[str, Any]) -> Iterator[str]:
    """Yield the text of a JSON object (RFC 8259), one line for each member and each row.

    members: values that DjangoJSONEncoder writes; an Iterator becomes a list.
    """
    yield "{"
    for number, (name, value) in enumerate(members.items()):
        yield f"{',' if number else ''}\n{_text(name)}: "
        if isinstance(value, Iterator):
            yield from _rows(value)
        else:
            yield _text(value)
    yield "\n}\n"


def _rows(rows: Iterator[Any]) -> Iterator[str]:
    start = "["
    for row in rows:
        yield f"{start}\n  {_text(row)}"
        start = ","
    yield "[]" if start == "[" else "\n]"


def _text(value: Any) -> str:
    # Without indentation: json has a fast encoder for that alone.
    return json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False)
