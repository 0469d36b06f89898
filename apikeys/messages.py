"""The texts for each result of a validation and each error in the shape of a key."""

from typing import Final

from django.utils.translation import gettext_lazy as _

from apikeys.services import VerdictCode
from apikeys.tokens import ShapeError

# For the REST API. ComfyUI displays them, so each says what to do.
VERDICTS: Final = {
    VerdictCode.VALID: _("This API key is good."),
    VerdictCode.MALFORMED: _(
        "This is not an API key of ours: it is mistyped or incomplete. "
        "A key is comfyui- and 64 letters and digits; copy it whole."
    ),
    VerdictCode.NOT_FOUND: _("This API key is not known here. Generate a new one and use that."),
    VerdictCode.REVOKED: _("This API key was deleted. Generate a new one and use that."),
    VerdictCode.SUSPENDED: _("This API key is suspended. Ask whoever runs this site."),
    VerdictCode.EXPIRED: _("This API key has expired. Generate a new one and use that."),
    VerdictCode.ACCOUNT_DISABLED: _(
        "The account of this API key is disabled. Ask whoever runs this site."
    ),
    VerdictCode.NETWORK_NOT_ALLOWED: _(
        "This API key can't be used from this network. Its owner can allow the network on the "
        "keys page."
    ),
}

# For the page where users test a key.
SHAPE_ERRORS: Final = {
    ShapeError.PREFIX: _(
        "This is no key of this platform: those begin with comfyui-. It may be a key of another "
        "service, or its beginning is missing."
    ),
    ShapeError.LENGTH: _(
        "This key has %(length)d characters, and a key has %(wanted)d: a part is missing, or "
        "something was pasted along. Copy it whole, once."
    ),
    ShapeError.DIGITS: _(
        "A character in this key can't be right: after comfyui- there are only the digits 0 to 9 "
        "and the small letters a to f. Copy it again instead of typing it."
    ),
    ShapeError.CHECKSUM: _(
        "This key is mistyped, at least one character is wrong; or it was made on another "
        "platform, such as platform.comfy.org. Copy it again, or generate one here."
    ),
}
VERDICTS_ON_PAGE: Final = {
    VerdictCode.VALID: _("This key is good: it is “%(name)s” (%(masked)s)."),
    VerdictCode.MALFORMED: SHAPE_ERRORS[ShapeError.CHECKSUM],
    VerdictCode.NOT_FOUND: _(
        "This key has the right shape, but is not known here. It was made on another platform, or "
        "its account was deleted. Generate a new one."
    ),
    VerdictCode.REVOKED: _("This key was deleted. Generate a new one and use that."),
    VerdictCode.SUSPENDED: _("This key is suspended. Ask whoever runs this site."),
    VerdictCode.EXPIRED: _("This key has expired. Generate a new one and use that."),
    VerdictCode.ACCOUNT_DISABLED: _(
        "The account of this key is disabled. Ask whoever runs this site."
    ),
    VerdictCode.NETWORK_NOT_ALLOWED: _("This key can't be used from this network."),
}

# For staff who look up a key that a user sent them.
SHAPE_ERRORS_FOR_STAFF: Final = {
    ShapeError.PREFIX: _("This is no key: those begin with comfyui-."),
    ShapeError.LENGTH: _(
        "This is no whole key: those have 72 characters. A part is missing, or added."
    ),
    ShapeError.DIGITS: _(
        "This is no key: after comfyui- there are only the digits 0 to 9 and the small letters a "
        "to f."
    ),
    ShapeError.CHECKSUM: _(
        "This has a typo: its checksum does not fit. At least one character is wrong."
    ),
}
