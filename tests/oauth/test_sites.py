"""The list of sites: staff edit it, and a setting fills it at first."""

import re

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from accounts.models import User
from oauth.models import Site
from tests.config.test_environment import start
from tests.conftest import PASSWORD

ADD = "/admin/oauth/site/add/"


def add(http, origin: str, note: str = ""):
    return http.post(ADD, {"origin": origin, "note": note})


def test_staff_list_a_site_and_the_log_has_their_name(signed_in, sam):
    http = signed_in(sam)
    assert add(http, " HTTPS://Comfy.Example.com/ ", "the studio's").status_code == 302
    site = Site.objects.get()
    assert (site.origin, site.note, site.added_by) == (
        "https://comfy.example.com",
        "the studio's",
        sam,
    )
    [entry] = LogEntry.objects.all()
    assert (entry.user, entry.object_repr) == (sam, "https://comfy.example.com")
    assert "https://comfy.example.com" in http.get("/admin/oauth/site/?q=https://comfy").text
    assert http.get("/admin/oauth/site/?q=https://other").context["cl"].result_count == 0
    http.post(f"/admin/oauth/site/{site.pk}/delete/", {"post": "yes"})
    assert not Site.objects.exists()
    assert LogEntry.objects.count() == 2


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        ("", "This field is required."),
        ("comfy", "only scheme, host and port"),
        ("https://comfy.example.com/path", "only scheme, host and port"),
        ("https://*.example.com", "only scheme, host and port"),
        ("https://bücher.example", "starts with xn--"),
        ("http://comfy.example.com", "Sites on a LAN or plain http can't log people in"),
        ("https://192.168.1.20", "Sites on a LAN or plain http can't log people in"),
        ("http://10.0.0.7:8188", "Sites on a LAN or plain http can't log people in"),
        ("https://comfy.local", "Sites on a LAN or plain http can't log people in"),
        ("http://localhost:8188", "always allowed"),
        ("https://comfy.example.com\0", "Null characters are not allowed."),
        ("https://" + "a" * 300 + ".com", "at most 255 characters"),
    ],
)
def test_an_invalid_origin_is_rejected_with_a_message(signed_in, sam, origin, words):
    answer = add(signed_in(sam), origin)
    assert answer.status_code == 200
    assert words in answer.content.decode().replace("&#x27;", "'")
    assert not Site.objects.exists()


def test_a_site_cannot_be_listed_twice(signed_in, sam):
    http = signed_in(sam)
    add(http, "https://comfy.example.com")
    answer = add(http, "https://COMFY.example.com")
    assert "This site is already listed." in answer.text
    assert Site.objects.count() == 1


def test_listing_a_site_needs_the_permission(client, db):
    user = User.objects.create_user("vera@example.org", PASSWORD, is_staff=True)
    client.force_login(user)
    assert add(client, "https://comfy.example.com").status_code == 403
    user.user_permissions.add(Permission.objects.get(codename="add_site"))
    assert add(client, "https://comfy.example.com").status_code == 302


def test_a_site_stays_when_the_account_that_listed_it_is_deleted(sam):
    site = Site.objects.create(origin="https://comfy.example.com", added_by=sam)
    User.objects.filter(pk=sam.pk).delete()
    site.refresh_from_db()
    assert site.added_by is None


# --- The setting SITE_WHITELIST ---------------------------------------------------------------


def test_the_setting_separates_sites_by_commas_or_spaces_and_skips_loopback(tmp_path):
    sites = "https://a.example.org,https://B.example.org/  http://127.0.0.1:8188"
    started = start(tmp_path, "SITE_WHITELIST", SITE_WHITELIST=sites)
    assert started.stdout.strip() == "['https://a.example.org', 'https://b.example.org']"


def test_all_invalid_sites_in_the_setting_are_reported_at_start(tmp_path):
    invalid = {
        "http://comfy.example.org": "plain http",
        "https://192.168.1.20": "another machine in each network",
        "comfy": "not an origin",
    }
    started = start(tmp_path, SITE_WHITELIST=" ".join(["https://good.example.org", *invalid]))
    assert started.returncode == 1
    (report,) = re.findall(r"^  SITE_WHITELIST: (.+)$", started.stderr, re.MULTILINE)
    faults = re.findall(r"has '(.+?)', which (.+?)(?= has '|$)", report)
    assert [site for site, words in faults if invalid[site] in words] == [*invalid]
    assert "good.example" not in started.stderr
    assert "Traceback" not in started.stderr


@pytest.mark.django_db(transaction=True)
def test_the_migration_lists_the_sites_of_the_setting_once(settings):
    settings.SITE_WHITELIST = ["https://a.example.org", "https://a.example.org"]
    executor = MigrationExecutor(connection)
    executor.migrate([("oauth", None)])
    executor = MigrationExecutor(connection)
    executor.migrate([("oauth", "0001_initial")])
    assert list(Site.objects.values_list("origin", "note")) == [
        ("https://a.example.org", "SITE_WHITELIST")
    ]
    Site.objects.all().delete()
    MigrationExecutor(connection).migrate([("oauth", "0001_initial")])
    assert not Site.objects.exists(), "a site that staff deleted is not listed again"
