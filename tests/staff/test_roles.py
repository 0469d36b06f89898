"""Who of the staff may do what: each role at each page, by each method."""

import pytest
from django.contrib.auth.models import Group, Permission
from django.core.management import CommandError, call_command
from django.test import Client

from accounts import services as accounts
from accounts.models import User
from apikeys import services
from apikeys.models import APIKey
from audit.models import Action, Event, Via
from audit.trail import Actor
from staff.roles import FROM, Role, permissions_of
from tests.conftest import PASSWORD, show_who
from tests.test_matrix import ADMIN, KEYS, address_of, alices, everything_of, visit

__all__ = ["alices"]

ACCOUNTS = "/admin/accounts/user/"

# From whom on. All staff have no role at first; a superuser is past all roles.
ANY, SUPPORT, SECURITY, ADMINISTRATORS, SUPERUSER, NOBODY = range(6)
VISITORS = [ANY, SUPPORT, SECURITY, ADMINISTRATORS, SUPERUSER]

# Nobody's data: how one comes and goes, and what the pages are drawn with.
FOR_ALL_STAFF = {
    "admin/",
    "admin/login/",
    "admin/logout/",
    "admin/password_change/",
    "admin/password_change/done/",
    "admin/autocomplete/",
    "admin/jsi18n/",
    "admin/r/<path:content_type_id>/<path:object_id>/",
    "admin/(?P<url>.*)$",
    *(route for route in ADMIN if route.endswith("/<path:object_id>/")),
}


def rows(model: str, **pages: tuple[int, int]) -> dict[str, tuple[int, int]]:
    names = {"list": "", "add": "add/"}
    of_one = {name: f"<path:object_id>/{name}/" for name in ("history", "delete", "change")}
    return {f"admin/{model}/{(names | of_one)[page]}": who for page, who in pages.items()}


def settings_of(model: str) -> dict[str, tuple[int, int]]:
    pages = ("list", "add", "history", "delete", "change")
    return rows(model, **dict.fromkeys(pages, (ADMINISTRATORS, ADMINISTRATORS)))


# Who may read it, and who may send it. A list takes what is sent from whoever may see it: what
# they then may do, is below.
TABLE: dict[str, tuple[int, int]] = {
    r"admin/^(?P<app_label>auth|socialaccount|accounts|account|apikeys|audit|oauth|outbox)/$": (
        SUPPORT,
        SUPPORT,
    ),
    "admin/lookup/": (SUPPORT, SUPPORT),
    **rows(
        "accounts/user",
        list=(SUPPORT, SUPPORT),
        add=(ADMINISTRATORS, ADMINISTRATORS),
        history=(SUPPORT, SUPPORT),
        delete=(NOBODY, NOBODY),
        change=(SUPPORT, ADMINISTRATORS),
    ),
    "admin/accounts/user/<id>/password/": (ADMINISTRATORS, ADMINISTRATORS),
    # Nobody sends anything there.
    "admin/accounts/user/<uuid:user_id>/overview/": (SUPPORT, ANY),
    "admin/accounts/user/<uuid:user_id>/disable/": (SECURITY, SECURITY),
    "admin/accounts/user/<uuid:user_id>/enable/": (SECURITY, SECURITY),
    "admin/accounts/user/<uuid:user_id>/end-sessions/": (SECURITY, SECURITY),
    **rows(
        "apikeys/apikey",
        list=(SUPPORT, SUPPORT),
        add=(NOBODY, NOBODY),
        history=(SUPPORT, SUPPORT),
        delete=(NOBODY, NOBODY),
        change=(SUPPORT, NOBODY),
    ),
    "admin/apikeys/apikey/<uuid:key_id>/revoke/": (SUPPORT, SUPPORT),
    "admin/apikeys/apikey/<uuid:key_id>/suspend/": (SECURITY, SECURITY),
    "admin/apikeys/apikey/<uuid:key_id>/restore/": (SECURITY, SECURITY),
    **rows(
        "audit/event",
        list=(SUPPORT, SUPPORT),
        add=(NOBODY, NOBODY),
        history=(SUPPORT, SUPPORT),
        delete=(NOBODY, NOBODY),
        change=(SUPPORT, NOBODY),
    ),
    "admin/audit/event/export/<slug:form>": (SECURITY, SECURITY),
    **rows(
        "account/emailaddress",
        list=(SUPPORT, SUPPORT),
        add=(SUPERUSER, SUPERUSER),
        history=(SUPPORT, SUPPORT),
        delete=(SUPERUSER, SUPERUSER),
        change=(SUPPORT, SUPERUSER),
    ),
    **rows(
        "outbox/mail",
        list=(ADMINISTRATORS, ADMINISTRATORS),
        add=(NOBODY, NOBODY),
        history=(ADMINISTRATORS, ADMINISTRATORS),
        delete=(NOBODY, NOBODY),
        change=(ADMINISTRATORS, NOBODY),
    ),
    **settings_of("auth/group"),
    **settings_of("oauth/site"),
    **settings_of("socialaccount/socialapp"),
}


@pytest.fixture
def cast(somebody, sam) -> dict[int, User]:
    return {
        ANY: somebody(),
        SUPPORT: somebody(Role.SUPPORT),
        SECURITY: somebody(Role.SECURITY),
        ADMINISTRATORS: somebody(Role.ADMINISTRATORS),
        SUPERUSER: sam,
    }


def test_every_staff_page_says_who_may():
    assert set(TABLE) | FOR_ALL_STAFF == set(ADMIN)


@pytest.mark.parametrize("route", TABLE)
def test_each_page_opens_to_the_roles_that_are_listed(route, cast, open_as, alice, alices):
    reads, _sends = TABLE[route]
    for visitor in VISITORS:
        answer = visit(open_as(cast[visitor]), "GET", route, alices, ADMIN[route])
        # A list of models that one may not see is not there.
        assert (answer.status_code not in {403, 404}) == (visitor >= reads), (visitor, answer)


@pytest.mark.parametrize("route", TABLE)
def test_each_page_takes_from_the_roles_that_are_listed(route, cast, open_as, alice, alices):
    _reads, sends = TABLE[route]
    before = everything_of(alice)
    for visitor in VISITORS:
        answer = visit(open_as(cast[visitor]), "POST", route, alices, ADMIN[route])
        may = visitor >= sends
        assert (answer.status_code not in {403, 404}) == may, (visitor, answer)
        if may:
            # The others would come to what is done by now.
            return
        assert everything_of(alice) == before, visitor


# What each action on a list takes.
ACTIONS = {
    (KEYS, "revoke_selected", "{key}"): SUPPORT,
    (KEYS, "suspend_selected", "{key}"): SECURITY,
    (KEYS, "restore_selected", "{key}"): SECURITY,
    (ACCOUNTS, "remove_factors", "{user}"): ADMINISTRATORS,
    ("/admin/account/emailaddress/", "make_verified", "{emailaddress}"): SUPERUSER,
    ("/admin/account/emailaddress/", "delete_selected", "{emailaddress}"): SUPERUSER,
    ("/admin/auth/group/", "delete_selected", "{group}"): ADMINISTRATORS,
    ("/admin/oauth/site/", "delete_selected", "{site}"): ADMINISTRATORS,
    ("/admin/socialaccount/socialapp/", "delete_selected", "{socialapp}"): ADMINISTRATORS,
}


@pytest.mark.parametrize("what", ACTIONS, ids=lambda what: f"{what[0]}{what[1]}")
def test_each_action_is_done_for_the_roles_that_are_listed(what, cast, open_as, alice, alices, sam):
    address, action, chosen = what
    if action == "restore_selected":
        services.suspend(APIKey.objects.get(pk=alices["key"]), by=Actor(sam, Via.ADMIN))
    before = everything_of(alice)
    body = {
        "action": action,
        "_selected_action": chosen.format(**alices),
        "confirmed": "1",
        "post": "yes",
    }
    for visitor in VISITORS:
        open_as(cast[visitor]).post(address, body)
        is_done = everything_of(alice) != before
        assert is_done == (visitor >= ACTIONS[what]), visitor
        if is_done:
            return


def test_every_staff_page_asks_for_a_factor_that_this_session_has_shown(
    settings, cast, alice, alices
):
    """Also those that need no permission; and before it is asked whether one may."""
    settings.STAFF_SECOND_FACTOR = True
    client = Client()
    client.force_login(cast[SUPERUSER])
    show_who(client, cast[SUPERUSER])
    before = everything_of(alice)
    for route in ADMIN:
        if route in {"admin/login/", "admin/logout/"}:
            continue
        for method in ("GET", "POST"):
            answer = visit(client, method, route, alices, ADMIN[route])
            assert answer.status_code == 302, (method, route)
            assert answer["Location"].startswith("/admin/login/?next="), (method, route)
    assert everything_of(alice) == before
    assert not Event.objects.filter(action=Action.STAFF_VIEWED).exists()
    show_who(client, cast[SUPERUSER], method="mfa", type="totp")
    opened = client.get(address_of("admin/accounts/user/<uuid:user_id>/overview/", alices))
    assert opened.status_code == 200


# --- Nobody makes themselves more than they are ----------------------------------------------


def form_of(user: User, **changed: object) -> dict[str, object]:
    ticked = ("is_active", "is_staff", "is_superuser")
    fields = {"email": user.email, "name": user.name}
    fields |= {name: "on" for name in ticked if getattr(user, name)}
    return {name: value for name, value in {**fields, **changed}.items() if value is not None}


def change(client: Client, user: User, **changed: object):
    return client.post(f"{ACCOUNTS}{user.pk}/change/", form_of(user, **changed))


def test_an_administrator_says_who_is_staff_and_in_which_role(open_as, administrator, alice):
    group = Group.objects.get(name=Role.SUPPORT)
    change(open_as(administrator), alice, is_staff="on", groups=[group.pk])
    alice = User.objects.get(pk=alice.pk)
    assert alice.is_staff
    assert alice.has_perm("apikeys.view_apikey")


def test_an_administrator_makes_no_superuser(open_as, administrator, alice):
    for whom in (alice, administrator):
        change(open_as(administrator), whom, is_staff="on", is_superuser="on")
        assert not User.objects.get(pk=whom.pk).is_superuser


def test_nobody_below_a_superuser_gets_at_one(open_as, administrator, sam, mailoutbox):
    client = open_as(administrator)
    before = User.objects.filter(pk=sam.pk).values().get()
    taken = {"usable_password": "true", "password1": "vera knows 1", "password2": "vera knows 1"}
    for answer in (
        change(client, sam, email="mine@example.org"),
        client.post(f"{ACCOUNTS}{sam.pk}/password/", taken),
        client.post(f"{ACCOUNTS}{sam.pk}/disable/"),
        client.post(f"{ACCOUNTS}{sam.pk}/end-sessions/"),
        client.post(
            ACCOUNTS,
            {"action": "remove_factors", "_selected_action": str(sam.pk), "confirmed": "1"},
        ),
    ):
        assert answer.status_code == 403
    assert User.objects.filter(pk=sam.pk).values().get() == before


@pytest.mark.parametrize("deed", ["disable", "end-sessions"])
def test_security_does_not_act_on_staff_and_administrators_do(
    deed, open_as, security, administrator, support
):
    address = f"{ACCOUNTS}{support.pk}/{deed}/"
    assert open_as(security).post(address).status_code == 403
    assert open_as(administrator).post(address).status_code == 302


def test_support_is_offered_no_more_than_it_may(open_as, support, alice, issue):
    key, _token = issue("studio")
    client = open_as(support)
    page = client.get(f"{ACCOUNTS}{alice.pk}/overview/").text
    assert f"{KEYS}{key.pk}/revoke/" in page
    for beyond in ("suspend/", "disable/", "end-sessions/"):
        assert beyond not in page
    listed = client.get(KEYS).text
    assert "revoke_selected" in listed
    assert "suspend_selected" not in listed


# --- The table, and the groups ---------------------------------------------------------------


def test_each_role_has_all_of_the_one_before():
    support, security, administrators = (permissions_of(role) for role in Role)
    assert support < security < administrators == {name for name, _role in FROM}


def test_migrating_brings_the_groups_back_to_the_table(db):
    group = Group.objects.get(name=Role.SUPPORT)
    group.permissions.set(Permission.objects.filter(codename__in=["delete_site", "view_apikey"]))
    Group.objects.get(name=Role.SECURITY).delete()
    call_command("migrate", verbosity=0)
    for role in Role:
        held = Group.objects.get(name=role).permissions.values_list(
            "content_type__app_label", "codename"
        )
        assert {f"{app}.{name}" for app, name in held} == permissions_of(role)


def test_migrating_leaves_other_groups_alone(db):
    ours = Group.objects.create(name="Night shift")
    ours.permissions.set(Permission.objects.filter(codename="view_apikey"))
    call_command("migrate", verbosity=0)
    assert ours.permissions.count() == 1


# --- make staff ROLE= ------------------------------------------------------------------------


@pytest.fixture
def environment(monkeypatch):
    def give(**variables: str) -> None:
        for name, value in {"PASSWORD": PASSWORD, **variables}.items():
            monkeypatch.setenv(name, value)

    return give


@pytest.mark.parametrize(
    ("said", "role"),
    [
        ("support", Role.SUPPORT),
        ("Security", Role.SECURITY),
        ("administrator", Role.ADMINISTRATORS),
    ],
)
def test_an_account_is_made_in_a_role(environment, db, said, role):
    environment(EMAIL="vera@example.org", ROLE=said)
    call_command("make_staff")
    vera = User.objects.get(email="vera@example.org")
    assert (vera.is_staff, vera.is_superuser) == (True, False)
    assert vera.get_all_permissions() == permissions_of(role)
    event = Event.objects.get(action=Action.STAFF_CHANGED)
    assert (event.account, event.via, event.detail["role"]) == (vera, Via.COMMAND, role)


def test_without_a_role_it_may_do_everything(environment, somebody):
    somebody(Role.SUPPORT, "vera@example.org")
    environment(EMAIL="vera@example.org", ROLE="")
    call_command("make_staff")
    vera = User.objects.get(email="vera@example.org")
    assert vera.is_superuser
    assert not vera.groups.exists()


def test_a_role_that_there_is_not_is_refused_in_words(environment, db):
    environment(EMAIL="vera@example.org", ROLE="janitor")
    with pytest.raises(CommandError, match="support, security, administrator"):
        call_command("make_staff")
    assert not User.objects.exists()


def test_the_last_administrator_is_not_put_into_a_lesser_role(environment, sam):
    environment(EMAIL=sam.email, ROLE="support")
    with pytest.raises(CommandError, match="last administrator"):
        call_command("make_staff")
    assert accounts.is_last_administrator(User.objects.get(pk=sam.pk))
