"""Keys, their use, the networks they were used from, and notices about them.

Operations on keys are in apikeys.services.
"""

from apikeys.models.keys import APIKey, APIKeyQuerySet, Reason
from apikeys.models.notices import KeyNotice
from apikeys.models.uses import DailyUse, HourlyUse, KeyNetwork
from apikeys.models.validators import (
    MAX_DESCRIPTION,
    MAX_FOLDED,
    MAX_NAME,
    validate_description,
    validate_name,
    validate_scopes,
)

__all__ = [
    "MAX_DESCRIPTION",
    "MAX_FOLDED",
    "MAX_NAME",
    "APIKey",
    "APIKeyQuerySet",
    "DailyUse",
    "HourlyUse",
    "KeyNetwork",
    "KeyNotice",
    "Reason",
    "validate_description",
    "validate_name",
    "validate_scopes",
]
