"""Operations on keys: issue, check, rotate, revoke, suspend, restore and validate.

Pages, the REST API, the admin and the commands call these. They use no requests, forms or
serializers. Modules are named by nouns: `apikeys.services.issue` is the function, which would hide
a module of that name.
"""

from apikeys.services.creation import AlreadyIssued, check, issue, rotate
from apikeys.services.lifecycle import UnknownKeys, delete_many, restore, revoke, suspend
from apikeys.services.validation import Verdict, VerdictCode, validate

__all__ = [
    "AlreadyIssued",
    "UnknownKeys",
    "Verdict",
    "VerdictCode",
    "check",
    "delete_many",
    "issue",
    "restore",
    "revoke",
    "rotate",
    "suspend",
    "validate",
]
