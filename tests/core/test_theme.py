"""Themes that a browser chooses, and colors made from the operator's accent color."""

import re

import pytest
from django.test import Client

from core import theme

ACCENTS = ["#c5e435", "#000000", "#ffffff", "#808080", "#ff0000", "#0a58ca", "#f5c211", "#777777"]


@pytest.mark.parametrize("accent", ACCENTS)
def test_every_accent_color_gives_readable_text(accent):
    colors = theme.palette(accent)
    for ground in (colors.accent, colors.hover):
        assert theme.contrast(colors.on_accent, ground) >= 4.5
    # The page, a panel, and the marked entry of a menu.
    for ground in ("#f8f6fa", "#ffffff", "#ece5f2"):
        assert theme.contrast(colors.on_light, ground) >= 4.5
    for ground in ("#17121c", "#211a28", "#33283f"):
        assert theme.contrast(colors.on_dark, ground) >= 4.5


def test_contrast_is_that_of_wcag():
    assert theme.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert theme.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert theme.contrast("#123456", "#123456") == 1


def test_a_readable_accent_is_used_as_it_is():
    assert theme.palette("#0a58ca").on_light == "#0a58ca"


def test_without_an_accent_color_there_is_no_style_sheet_of_it(client, db):
    assert client.get("/theme.css").status_code == 404
    assert "theme.css" not in client.get("/login").text


def test_the_accent_color_is_a_style_sheet_that_browsers_keep(client, db, settings):
    settings.ACCENT_COLOR = "#0a58ca"
    [url] = re.findall(r'href="(/theme.css\?v=\w+)"', client.get("/login").text)
    answer = client.get(url)
    assert answer["Content-Type"].startswith("text/css")
    assert "immutable" in answer["Cache-Control"]
    assert "--accent: #0a58ca;" in answer.text
    assert "--on-accent: #ffffff;" in answer.text
    assert "immutable" not in client.get("/theme.css?v=old")["Cache-Control"]
    settings.ACCENT_COLOR = "#0a58cb"
    assert url not in client.get("/login").text


@pytest.mark.parametrize("path", ["/login", "/api/docs/", "/admin/"])
def test_every_kind_of_page_has_the_accent_color(staff, settings, path):
    assert "theme.css" not in staff.get(path, follow=True).text
    settings.ACCENT_COLOR = "#0a58ca"
    assert re.search(r'href="/theme.css\?v=\w+"', staff.get(path, follow=True).text)


@pytest.mark.parametrize("chosen", ["light", "dark"])
def test_a_chosen_theme_is_in_every_page_from_the_start(client, db, settings, chosen):
    answer = client.post("/theme", {"theme": chosen, "next": "/signup"})
    assert (answer.status_code, answer["Location"]) == (302, "/signup")
    cookie = answer.cookies[settings.THEME_COOKIE_NAME]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/")
    assert cookie["max-age"] > 300 * 24 * 3600
    for path in ("/login", "/nowhere", "/connect", "/api/docs/"):
        page = client.get(path).text
        assert f'data-theme="{chosen}"' in page, path
        assert f'<meta name="color-scheme" content="{chosen}">' in page, path


def test_the_theme_of_the_system_needs_no_cookie(client, db, settings):
    client.post("/theme", {"theme": "dark"})
    client.post("/theme", {"theme": "system"})
    assert client.cookies[settings.THEME_COOKIE_NAME].value == ""
    page = client.get("/login").text
    assert "data-theme" not in page
    assert 'content="light dark"' in page


@pytest.mark.parametrize("value", ["", "blue", '"><script>', "LIGHT"])
def test_an_unknown_theme_is_refused(client, db, settings, value):
    assert client.post("/theme", {"theme": value}).status_code == 404
    assert settings.THEME_COOKIE_NAME not in client.cookies
    client.cookies[settings.THEME_COOKIE_NAME] = value
    assert "data-theme" not in client.get("/login").text


def test_choosing_a_theme_requires_a_csrf_token(db):
    client = Client(enforce_csrf_checks=True)
    assert client.get("/theme").status_code == 405
    assert client.post("/theme", {"theme": "dark"}).status_code == 403


def test_one_theme_is_marked_as_chosen(client, db):
    client.post("/theme", {"theme": "dark"})
    pressed = re.findall(r'value="(\w+)" aria-pressed="true"', client.get("/login").text)
    assert pressed == ["dark"]


def test_pages_are_read_in_the_direction_of_their_language(client, db, monkeypatch):
    assert 'dir="ltr"' in client.get("/login").text
    monkeypatch.setattr("django.utils.translation.get_language_bidi", lambda: True)
    assert 'dir="rtl"' in client.get("/login").text


def test_the_name_of_the_site_is_in_its_pages(client, db, settings, signed_in, alice):
    settings.SITE_NAME = "Studio <keys>"
    for page in (client.get("/login"), client.get("/nowhere"), signed_in(alice).get("/keys/")):
        assert "· Studio &lt;keys&gt;</title>" in page.text
        assert "ComfyUI keys" not in page.text


def test_the_account_menu_has_the_initial_and_the_email(signed_in, alice):
    page = signed_in(alice).get("/keys/").text
    assert re.search(r'class="initial"[^>]*>A<', page)
    menu = page[page.index('id="account-menu"') : page.index("</header>")]
    for words in ("alice@example.org", 'href="/account/"', "Activity", "Log out", 'value="dark"'):
        assert words in menu
