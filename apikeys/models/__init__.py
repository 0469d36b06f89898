"""Keys, their use and the networks they were used from.

Operations on keys are in apikeys.services.
"""

from apikeys.models.keys import APIKey, APIKeyQuerySet, Reason
from apikeys.models.uses import DailyTotal, DailyUse, HourlyRefusal, HourlyUse, KeyNetwork
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
    "DailyTotal",
    "DailyUse",
    "HourlyRefusal",
    "HourlyUse",
    "KeyNetwork",
    "Reason",
    "validate_description",
    "validate_name",
    "validate_scopes",
]
