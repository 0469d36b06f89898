"""Operations on keys: issue, check, rotate, update, revoke, suspend, restore and validate.

Pages, the REST API, the admin and the commands call these. They use no requests, forms or
serializers. Modules are named by nouns: `apikeys.services.issue` is the function, which would hide
a module of that name.
"""

from apikeys.services.changes import KeyChanges, extends, update
from apikeys.services.creation import AlreadyIssued, NameTakenError, check, issue, rotate
from apikeys.services.lifecycle import UnknownKeys, delete_many, restore, revoke, suspend
from apikeys.services.validation import Verdict, validate
from apikeys.verdict_codes import VerdictCode

__all__ = [
    "AlreadyIssued",
    "KeyChanges",
    "NameTakenError",
    "UnknownKeys",
    "Verdict",
    "VerdictCode",
    "check",
    "delete_many",
    "extends",
    "issue",
    "restore",
    "revoke",
    "rotate",
    "suspend",
    "update",
    "validate",
]
