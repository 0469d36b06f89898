"""Keys, their use and the networks they were used from.

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
)
from apikeys.models.uses import DailyUse, HourlyUse, KeyNetwork
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
    "DailyUse",
    "HourlyUse",
    "KeyNetwork",
    "KeyState",
    "Reason",
    "read_allowed_networks",
    "validate_allowed_networks",
    "validate_description",
    "validate_name",
    "validate_scopes",
]
