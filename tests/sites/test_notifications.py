"""PostgreSQL notifies other hosts of each change that a session at a site depends on.

On SQLite there are no other hosts: there these tests only make the changes.
"""

from collections.abc import Callable, Iterator

import psycopg
import pytest
from django.contrib.auth.models import Group
from django.db import connection

from accounts.models import User
from apikeys.cache.listener import CHANNEL
from core.postgres import conninfo
from sites.models import ComfyUIUser, ProtectedSite, SiteSession

DIGEST = "abcd" + "0" * 60


@pytest.fixture
def session(transactional_db: None, alice: User) -> SiteSession:
    site = ProtectedSite.objects.create(origin="https://comfy.example.com")
    ComfyUIUser.objects.create(site=site, owner=alice, user_id="one")
    alice.groups.add(Group.objects.create(name="Studio"))
    return SiteSession.objects.create(digest=DIGEST, site=site, owner=alice, session_key="s")


@pytest.fixture
def notified(session: SiteSession) -> Iterator[Callable[[], set[str]]]:
    """Return a function that returns the payloads since the last call."""
    if connection.vendor != "postgresql":
        yield set
        return
    with psycopg.connect(conninfo(connection, leave_out={"options"}), autocommit=True) as other:
        other.execute(f"LISTEN {CHANNEL}")
        yield (
            lambda: (
                {notice.payload for notice in other.notifies(timeout=2, stop_after=1)}
                | {notice.payload for notice in other.notifies(timeout=0)}
            )
        )


def sql(statement: str) -> Callable[[], None]:
    """Return a change by hand: no code of the models runs."""

    def run() -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    return run


OF_SESSION = {
    "session deleted": sql("DELETE FROM comfyui_sites_sitesession"),
    "session of another site": sql(
        "UPDATE comfyui_sites_sitesession SET digest = 'abcd', session_key = 't'"
    ),
    "account disabled": sql("UPDATE accounts_user SET is_active = (1 = 0)"),
    "another email": sql("UPDATE accounts_user SET email = 'alicia@example.org'"),
    "another password": sql("UPDATE accounts_user SET password = 'x'"),
}
OF_ACCESS = {
    "site changed": sql("UPDATE comfyui_sites_protectedsite SET access = 'everyone'"),
    "account admitted": lambda: ProtectedSite.objects.get().accounts.add(User.objects.get()),
    "group admitted": lambda: ProtectedSite.objects.get().groups.add(
        Group.objects.get(name="Studio")
    ),
    "group left": sql("DELETE FROM accounts_user_groups"),
    "another user in ComfyUI": sql("UPDATE comfyui_sites_comfyuiuser SET user_id = 'two'"),
}
NOTHING = {
    "session renamed": sql("UPDATE comfyui_sites_sitesession SET session_key = 't'"),
    "language changed": sql("UPDATE accounts_user SET language = 'de'"),
    "same password": sql("UPDATE accounts_user SET password = password"),
}


@pytest.mark.parametrize("change", OF_SESSION.values(), ids=OF_SESSION)
def test_the_bucket_of_the_session_is_notified(notified, change):
    change()
    assert notified() == ({"abcd"} if connection.vendor == "postgresql" else set())


@pytest.mark.parametrize("change", OF_ACCESS.values(), ids=OF_ACCESS)
def test_a_change_of_access_stands_for_all_buckets(notified, change):
    change()
    assert notified() == ({"all"} if connection.vendor == "postgresql" else set())


@pytest.mark.parametrize("change", NOTHING.values(), ids=NOTHING)
def test_nothing_else_is_notified(notified, change):
    change()
    assert notified() == set()
