"""Detection of compressed request bodies, which the platform rejects (RFC 9110 §8.4).

The length of a compressed body does not bound its decompressed size.
"""

from typing import Final

from django.http import HttpRequest

# RFC 9110 §12.5.3: a 415 names the codings that are accepted.
ACCEPTED: Final = {"Accept-Encoding": "identity"}


def is_encoded(request: HttpRequest) -> bool:
    """Return whether the Content-Encoding header names a coding other than identity."""
    codings = request.META.get("HTTP_CONTENT_ENCODING", "").lower().split(",")
    return any(coding.strip() not in {"", "identity"} for coding in codings)
