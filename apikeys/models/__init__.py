"""Keys, their use, the networks they were used from, and notices about them.

Operations on keys are in apikeys.services.
"""

from apikeys.models.keys import (
    EXPIRING_SOON,
    NAME_TAKEN,
    UNUSED_AFTER,
    APIKey,
    APIKeyQuerySet,
    KeyState,
    Reason,
    live_condition,
)
from apikeys.models.names import FormerName
from apikeys.models.notices import KeyNotice
from apikeys.models.removed import RemovedKey
from apikeys.models.uses import DailyTotal, DailyUse, HourlyRefusal, HourlyUse, KeyNetwork
from apikeys.models.validators import (
    MAX_DESCRIPTION,
    MAX_FOLDED,
    MAX_NAME,
    read_allowed_networks,
    validate_allowed_networks,
    validate_description,
    validate_name,
    validate_scopes,
)

__all__ = [
    "EXPIRING_SOON",
    "MAX_DESCRIPTION",
    "MAX_FOLDED",
    "MAX_NAME",
    "NAME_TAKEN",
    "UNUSED_AFTER",
    "APIKey",
    "APIKeyQuerySet",
    "DailyTotal",
    "DailyUse",
    "FormerName",
    "HourlyRefusal",
    "HourlyUse",
    "KeyNetwork",
    "KeyNotice",
    "KeyState",
    "Reason",
    "RemovedKey",
    "live_condition",
    "read_allowed_networks",
    "validate_allowed_networks",
    "validate_description",
    "validate_name",
    "validate_scopes",
]
