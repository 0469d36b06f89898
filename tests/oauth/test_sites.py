"""The list of sites: staff keep it, the environment begins it."""

import os
import subprocess
import sys

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from accounts.models import User
from oauth.models import Site
from tests.conftest import PASSWORD
from tests.servers import ROOT

ADD = "/admin/oauth/site/add/"


def add(http, origin: str, note: str = ""):
    return http.post(ADD, {"origin": origin, "note": note})


def test_sam_lists_a_site_and_it_is_noted_who(signed_in, sam):
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
        ("comfy", "scheme, host and port alone"),
        ("https://comfy.example.com/path", "scheme, host and port alone"),
        ("https://*.example.com", "scheme, host and port alone"),
        ("https://bücher.example", "begins xn--"),
        ("http://comfy.example.com", "LAN or plain-http site can't sign people in"),
        ("https://192.168.1.20", "LAN or plain-http site can't sign people in"),
        ("http://10.0.0.7:8188", "LAN or plain-http site can't sign people in"),
        ("https://comfy.local", "LAN or plain-http site can't sign people in"),
        ("http://localhost:8188", "always allowed"),
        ("https://comfy.example.com\0", "Null characters are not allowed."),
        ("https://" + "a" * 300 + ".com", "at most 255 characters"),
    ],
)
def test_what_can_not_be_a_site_is_refused_in_words(signed_in, sam, origin, words):
    answer = add(signed_in(sam), origin)
    assert answer.status_code == 200
    assert words in answer.content.decode().replace("&#x27;", "'")
    assert not Site.objects.exists()


def test_a_site_is_listed_once(signed_in, sam):
    http = signed_in(sam)
    add(http, "https://comfy.example.com")
    answer = add(http, "https://COMFY.example.com")
    assert "This site is listed already." in answer.text
    assert Site.objects.count() == 1


def test_staff_without_the_permission_list_nothing(client, db):
    user = User.objects.create_user("vera@example.org", PASSWORD, is_staff=True)
    client.force_login(user)
    assert add(client, "https://comfy.example.com").status_code == 403
    user.user_permissions.add(Permission.objects.get(codename="add_site"))
    assert add(client, "https://comfy.example.com").status_code == 302


def test_whoever_listed_a_site_may_leave_and_it_stays(sam):
    site = Site.objects.create(origin="https://comfy.example.com", added_by=sam)
    User.objects.filter(pk=sam.pk).delete()
    site.refresh_from_db()
    assert site.added_by is None


# --- The environment --------------------------------------------------------------------------


def start(tmp_path, whitelist: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from config import settings; print(settings.SITE_WHITELIST)"],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "VAR_DIR": str(tmp_path),
            "SITE_WHITELIST": whitelist,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_sites_are_separated_by_commas_or_spaces_and_ones_own_machine_needs_none(tmp_path):
    started = start(tmp_path, "https://a.example.org,https://B.example.org/  http://127.0.0.1:8188")
    assert started.stdout.strip() == "['https://a.example.org', 'https://b.example.org']"


@pytest.mark.parametrize(
    ("whitelist", "words"),
    [
        ("http://comfy.example.org", "plain http"),
        ("https://192.168.1.20", "another machine in each network"),
        ("comfy", "not an origin"),
    ],
)
def test_a_bad_site_is_a_fault_in_the_one_report(tmp_path, whitelist, words):
    started = start(tmp_path, f"https://good.example.org {whitelist}")
    assert started.returncode == 1
    assert "SITE_WHITELIST: has " in started.stderr
    assert whitelist in started.stderr
    assert words in started.stderr
    assert "good.example" not in started.stderr
    assert "Traceback" not in started.stderr


@pytest.mark.django_db(transaction=True)
def test_the_environment_begins_the_list_and_staff_go_on_from_there(settings):
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
    assert not Site.objects.exists(), "what staff took off stays off"
