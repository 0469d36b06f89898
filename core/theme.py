"""Colors of pages: the theme that a browser has chosen, and the operator's accent color."""

from dataclasses import astuple, dataclass
from functools import cache

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST, require_safe

# "system" has no cookie.
THEMES = ("system", "light", "dark")
_MAX_AGE = 400 * 24 * 3600
# The colors of site.css that text of the palette is on, where its contrast is lowest.
_LIGHT_GROUND = "#ece5f2"
_DARK_GROUND = "#33283f"
# WCAG 2.2, 1.4.3: text against its background.
_TEXT_CONTRAST = 4.5
_BLACK, _WHITE = "#000000", "#ffffff"


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Colors made from one accent color, as `#rrggbb`."""

    accent: str
    hover: str
    on_accent: str
    """Black or white, whichever has more contrast with the accent."""
    on_light: str
    """The accent, darkened as far as text on a light page needs it."""
    on_dark: str
    """The accent, lightened as far as text on a dark page needs it."""


def current(request: HttpRequest) -> str:
    """Return "light" or "dark", or "" for the theme of the system."""
    chosen = request.COOKIES.get(settings.THEME_COOKIE_NAME, "")
    return chosen if chosen in {"light", "dark"} else ""


@require_POST
def choose(request: HttpRequest) -> HttpResponse:
    """Remember a theme in a cookie, and redirect to the page that the form was on."""
    chosen = request.POST.get("theme", "")
    if chosen not in THEMES:
        raise Http404
    next_url = request.POST.get("next", "")
    is_safe = url_has_allowed_host_and_scheme(
        next_url, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    response = HttpResponseRedirect(next_url if is_safe else reverse("keys"))
    name = settings.THEME_COOKIE_NAME
    if chosen == "system":
        response.delete_cookie(name, samesite="Lax")
    else:
        response.set_cookie(
            name, chosen, _MAX_AGE, secure=settings.HTTPS, httponly=True, samesite="Lax"
        )
    return response


@require_safe
def stylesheet(request: HttpRequest) -> HttpResponse:
    """Return the custom properties that the accent color replaces. 404 if the operator set none.

    A file of its own, because the content security policy forbids styles in pages.
    """
    if not settings.ACCENT_COLOR:
        raise Http404
    response = HttpResponse(_css(settings.ACCENT_COLOR), content_type="text/css; charset=utf-8")
    # The URL changes with the content.
    is_current = request.GET.get("v") == stylesheet_version(settings.ACCENT_COLOR)
    response["Cache-Control"] = (
        "public, max-age=31536000, immutable" if is_current else "public, max-age=300"
    )
    return response


def stylesheet_url() -> str:
    """Return the URL of the style sheet, or "" if the operator set no accent color."""
    if not settings.ACCENT_COLOR:
        return ""
    return f"{reverse('theme_css')}?v={stylesheet_version(settings.ACCENT_COLOR)}"


def stylesheet_version(accent: str) -> str:
    """Return all colors of the style sheet, which has nothing else in it."""
    return "".join(astuple(palette(accent))).replace("#", "")


@cache
def palette(accent: str) -> Palette:
    """Return colors for `accent` that keep the contrast of WCAG 2.2 AA. accent: `#rrggbb`."""
    on_accent = max((_BLACK, _WHITE), key=lambda text: contrast(text, accent))
    return Palette(
        accent=accent,
        # Away from the text on it, so that its contrast grows.
        hover=_mix(accent, _WHITE if on_accent == _BLACK else _BLACK, 0.15),
        on_accent=on_accent,
        on_light=_until_readable(accent, ground=_LIGHT_GROUND, towards=_BLACK),
        on_dark=_until_readable(accent, ground=_DARK_GROUND, towards=_WHITE),
    )


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colors, from 1 to 21 (WCAG 2.2, "contrast ratio")."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _css(accent: str) -> str:
    colors = palette(accent)
    text = f"light-dark({colors.on_light}, {colors.on_dark})"
    return (
        ":root {\n"
        f"  --accent: {colors.accent};\n"
        f"  --accent-strong: {colors.hover};\n"
        f"  --on-accent: {colors.on_accent};\n"
        f"  --accent-text: {text};\n"
        f"  --link: {text};\n"
        "}\n"
    )


def _luminance(color: str) -> float:
    """Return the relative luminance of `#rrggbb`, from 0 to 1 (WCAG 2.2, "relative luminance")."""
    red, green, blue = (
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
        for channel in (byte / 255 for byte in bytes.fromhex(color[1:]))
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _until_readable(color: str, *, ground: str, towards: str) -> str:
    """Return `color`, mixed with `towards` until it can be read on `ground`."""
    mixed = (_mix(color, towards, step / 20) for step in range(20))
    return next((one for one in mixed if contrast(one, ground) >= _TEXT_CONTRAST), towards)


def _mix(color: str, other: str, share: float) -> str:
    """Return `color` with `share` (0 to 1) of another one in it."""
    pairs = zip(bytes.fromhex(color[1:]), bytes.fromhex(other[1:]), strict=True)
    return f"#{bytes(round(one + (two - one) * share) for one, two in pairs).hex()}"
