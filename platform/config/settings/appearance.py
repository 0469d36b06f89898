"""The name and the colour of the site."""

from config.parsers import color, site_name
from config.settings.base import env
from config.settings.browsers import cookie_prefix, cookie_suffix

env.section("Appearance")

SITE_NAME: str = env.text(
    "SITE_NAME",
    default="ComfyUI keys",
    kind="text, at most 40 characters",
    help="The name of the site in pages and emails, also as their sender.",
)
try:
    SITE_NAME = site_name(SITE_NAME)
except ValueError as _error:
    env.add_error("SITE_NAME", str(_error))
ACCENT_COLOR: str | None = env.text(
    "ACCENT_COLOR",
    kind="color such as `#c5e435`",
    default_help="green and violet",
    help="The color of buttons and links. Text on it is black or white, and links are darkened or "
    "lightened, as far as people need to read them (WCAG 2.2 AA).",
)
if ACCENT_COLOR:
    try:
        ACCENT_COLOR = color(ACCENT_COLOR)
    except ValueError as _error:
        env.add_error("ACCENT_COLOR", str(_error))
# What a browser has chosen: its theme, and its system on /connect.
THEME_COOKIE_NAME = f"{cookie_prefix}theme{cookie_suffix}"
CONNECT_COOKIE_NAME = f"{cookie_prefix}system{cookie_suffix}"
