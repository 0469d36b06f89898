"""The texts for each result of a validation and each error in the shape of a key."""

from typing import Final

from django.utils.translation import gettext_lazy as _

from apikeys.services import VerdictCode
from apikeys.tokens import ShapeError

# For the REST API. ComfyUI displays them, so each says what to do.
VERDICTS: Final = {
    VerdictCode.VALID: _("This API key is valid."),
    VerdictCode.MALFORMED: _(
        "This isn't a complete API key of this site. Keys start with comfyui- and are "
        "72 characters long. Copy it again."
    ),
    VerdictCode.NOT_FOUND: _(
        "This API key is unknown on this site. Create a new one and use that."
    ),
    VerdictCode.REVOKED: _("This API key was deleted. Create a new one and use that."),
    VerdictCode.SUSPENDED: _("This API key is suspended. Ask your administrator."),
    VerdictCode.EXPIRED: _("This API key has expired. Create a new one and use that."),
    VerdictCode.ACCOUNT_DISABLED: _(
        "The account of this API key is disabled. Ask your administrator."
    ),
    VerdictCode.NETWORK_NOT_ALLOWED: _(
        "This API key can't be used from this network. Its owner can allow the network on the "
        "keys page."
    ),
}

# For the page where users test a key.
SHAPE_ERRORS: Final = {
    ShapeError.PREFIX: _(
        "This isn't an API key of this site: those start with comfyui-. It may be a key "
        "of another service, or its start is missing."
    ),
    ShapeError.LENGTH: _(
        "This isn't a complete key: it has %(length)d characters instead of %(wanted)d. "
        "Copy the whole key, once."
    ),
    ShapeError.DIGITS: _(
        "This key contains a character that keys never have: after comfyui- there are "
        "only digits 0 to 9 and lowercase letters a to f. Copy it again instead of "
        "typing it."
    ),
    ShapeError.CHECKSUM: _(
        "This key has a typo, or it was created on another site, such as "
        "platform.comfy.org. Copy it again, or create a key here."
    ),
}
VERDICTS_ON_PAGE: Final = {
    VerdictCode.VALID: _("This key is valid: “%(name)s” (%(masked)s)."),
    VerdictCode.MALFORMED: SHAPE_ERRORS[ShapeError.CHECKSUM],
    VerdictCode.NOT_FOUND: _(
        "This key is complete but unknown on this site. It was created on another site, "
        "or its account was deleted. Create a new one."
    ),
    VerdictCode.REVOKED: _("This key was deleted. Create a new one and use that."),
    VerdictCode.SUSPENDED: _("This key is suspended. Ask your administrator."),
    VerdictCode.EXPIRED: _("This key has expired. Create a new one and use that."),
    VerdictCode.ACCOUNT_DISABLED: _("The account of this key is disabled. Ask your administrator."),
    VerdictCode.NETWORK_NOT_ALLOWED: _("This key can't be used from this network."),
}

# After the verdict on a valid key, for its owner and for others.
NETWORKS_ON_PAGE: Final = _("It can be used from these networks only: %(networks)s.")
SOME_NETWORKS_ON_PAGE: Final = _("It can be used from some networks only.")

# For staff who look up a key that a user sent them.
SHAPE_ERRORS_FOR_STAFF: Final = {
    ShapeError.PREFIX: _("This isn't a key: keys start with comfyui-."),
    ShapeError.LENGTH: _("This isn't a complete key: keys are 72 characters long."),
    ShapeError.DIGITS: _(
        "This isn't a key: after comfyui- there are only digits 0 to 9 and lowercase "
        "letters a to f."
    ),
    ShapeError.CHECKSUM: _(
        "This has a typo: its checksum doesn't match. At least one character is wrong."
    ),
}
