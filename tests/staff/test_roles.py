"""Staff roles: each role at each staff page, with GET and POST."""

from http.cookies import SimpleCookie

import pytest
from django.contrib.auth.models import Group, Permission
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import Client

from accounts import services as accounts
from accounts.models import User
from apikeys import services
from apikeys.models import APIKey
from audit.models import Action, Event, Via
from audit.services import Actor
from staff.roles import PERMISSIONS, Role, permissions_of
from tests.conftest import PASSWORD, show_who
from tests.test_matrix import ADMIN, APP_LABELS, KEYS, alices_objects, all_data_of, url_of, visit

__all__ = ["alices_objects"]

ACCOUNTS = "/admin/accounts/user/"

# The first role with access. Staff without a role come first, superusers last.
ANY, SUPPORT, SECURITY, ADMINISTRATORS, SUPERUSER, NOBODY = range(6)
VISITORS = [ANY, SUPPORT, SECURITY, ADMINISTRATORS, SUPERUSER]

# Without personal data: login and logout, and assets of the pages.
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


# Who may view it, and who may submit it. A list accepts a POST from every viewer; its actions are
# tested below.
TABLE: dict[str, tuple[int, int]] = {
    f"admin/{APP_LABELS}": (SUPPORT, SUPPORT),
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
    # No POST.
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
    "admin/audit/event/export/<slug:file_format>": (SECURITY, SECURITY),
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
    **settings_of("comfyui_sites/protectedsite"),
    **settings_of("socialaccount/socialapp"),
}


@pytest.fixture
def cast(make_staff_member, sam) -> dict[int, User]:
    return {
        ANY: make_staff_member(),
        SUPPORT: make_staff_member(Role.SUPPORT),
        SECURITY: make_staff_member(Role.SECURITY),
        ADMINISTRATORS: make_staff_member(Role.ADMINISTRATORS),
        SUPERUSER: sam,
    }


def test_every_staff_page_has_a_row():
    assert set(TABLE) | FOR_ALL_STAFF == set(ADMIN)


# Making the cast and logging them in takes longer than their requests, so it is done once.
def test_each_page_can_be_viewed_by_the_listed_roles(cast, open_as, alice, alices_objects):
    browsers = {visitor: open_as(cast[visitor]) for visitor in VISITORS}
    for route, (reads, _sends) in TABLE.items():
        for visitor, client in browsers.items():
            response = visit(client, "GET", route, alices_objects, ADMIN[route])
            # A list of models without the permission to view them is a 404.
            assert (response.status_code not in {403, 404}) == (visitor >= reads), (
                f"{route} by {visitor}: {response.status_code}"
            )


def test_each_form_can_be_submitted_by_the_listed_roles(cast, open_as, alice, alices_objects):
    browsers = {visitor: open_as(cast[visitor]) for visitor in VISITORS}
    cookies = {visitor: SimpleCookie(client.cookies) for visitor, client in browsers.items()}
    before = all_data_of(alice)
    for route, (_reads, sends) in TABLE.items():
        refused = [visitor for visitor in VISITORS if visitor < sends]
        # A second user would find the change already made.
        allowed = [visitor for visitor in VISITORS if visitor >= sends][:1]
        with transaction.atomic():
            for visitor in (*refused, *allowed):
                if visitor in allowed:
                    assert all_data_of(alice) == before, f"{route} by one of {refused}"
                client = browsers[visitor]
                client.cookies = SimpleCookie(cookies[visitor])
                response = visit(client, "POST", route, alices_objects, ADMIN[route])
                assert (response.status_code in {403, 404}) == (visitor in refused), (
                    f"{route} by {visitor}: {response.status_code}"
                )
            assert allowed or all_data_of(alice) == before, f"{route} by one of {refused}"
            transaction.set_rollback(True)
        cache.clear()


# The form data of each bulk action.
ACTIONS = {
    (KEYS, "suspend_selected", "{key}"): SECURITY,
    (KEYS, "restore_selected", "{key}"): SECURITY,
    (ACCOUNTS, "remove_factors", "{user}"): ADMINISTRATORS,
    ("/admin/account/emailaddress/", "make_verified", "{emailaddress}"): SUPERUSER,
    ("/admin/account/emailaddress/", "delete_selected", "{emailaddress}"): SUPERUSER,
    ("/admin/auth/group/", "delete_selected", "{group}"): ADMINISTRATORS,
    ("/admin/oauth/site/", "delete_selected", "{site}"): ADMINISTRATORS,
    (
        "/admin/comfyui_sites/protectedsite/",
        "delete_selected",
        "{protectedsite}",
    ): ADMINISTRATORS,
    ("/admin/socialaccount/socialapp/", "delete_selected", "{socialapp}"): ADMINISTRATORS,
}


@pytest.mark.parametrize("what", ACTIONS, ids=lambda what: f"{what[0]}{what[1]}")
def test_each_action_can_be_applied_by_the_listed_roles(
    what, cast, open_as, alice, alices_objects, sam
):
    url, action, chosen = what
    if action == "restore_selected":
        services.suspend(APIKey.objects.get(pk=alices_objects["key"]), by=Actor(sam, Via.ADMIN))
    before = all_data_of(alice)
    body = {
        "action": action,
        "_selected_action": chosen.format(**alices_objects),
        "confirmed": "1",
        "post": "yes",
    }
    for visitor in VISITORS:
        open_as(cast[visitor]).post(url, body)
        is_done = all_data_of(alice) != before
        assert is_done == (visitor >= ACTIONS[what]), visitor
        if is_done:
            return


def test_every_staff_page_requires_a_factor_used_in_this_session(
    settings, cast, alice, alices_objects
):
    """Also pages that need no permission; checked before the permission."""
    settings.STAFF_SECOND_FACTOR = True
    client = Client()
    client.force_login(cast[SUPERUSER])
    show_who(client, cast[SUPERUSER])
    before = all_data_of(alice)
    for route in ADMIN:
        if route in {"admin/login/", "admin/logout/"}:
            continue
        for method in ("GET", "POST"):
            response = visit(client, method, route, alices_objects, ADMIN[route])
            assert response.status_code == 302, (method, route)
            assert response["Location"].startswith("/admin/login/?next="), (method, route)
    assert all_data_of(alice) == before
    assert not Event.objects.filter(action=Action.STAFF_VIEWED).exists()
    show_who(client, cast[SUPERUSER], method="mfa", type="totp")
    opened = client.get(url_of("admin/accounts/user/<uuid:user_id>/overview/", alices_objects))
    assert opened.status_code == 200


# --- No privilege escalation -----------------------------------------------------------------


def form_of(user: User, **changed: object) -> dict[str, object]:
    ticked = ("is_active", "is_staff", "is_superuser")
    fields = {"email": user.email, "name": user.name}
    fields |= {name: "on" for name in ticked if getattr(user, name)}
    return {name: value for name, value in {**fields, **changed}.items() if value is not None}


def change(client: Client, user: User, **changed: object):
    return client.post(f"{ACCOUNTS}{user.pk}/change/", form_of(user, **changed))


def test_an_administrator_assigns_staff_roles(open_as, administrator, alice):
    group = Group.objects.get(name=Role.SUPPORT)
    change(open_as(administrator), alice, is_staff="on", groups=[group.pk])
    alice = User.objects.get(pk=alice.pk)
    assert alice.is_staff
    assert alice.has_perm("apikeys.view_apikey")


def test_an_administrator_cannot_make_a_superuser(open_as, administrator, alice):
    for whom in (alice, administrator):
        change(open_as(administrator), whom, is_staff="on", is_superuser="on")
        assert not User.objects.get(pk=whom.pk).is_superuser


def test_change_user_alone_cannot_make_anybody_staff(open_as, make_staff_member, alice):
    helper = make_staff_member()
    helper.user_permissions.set(
        Permission.objects.filter(codename__in=("view_user", "change_user"))
    )
    group = Group.objects.get(name=Role.ADMINISTRATORS)
    change(open_as(helper), alice, name="Alicia", is_staff="on", groups=[group.pk])
    changed = User.objects.get(pk=alice.pk)
    assert (changed.name, changed.is_staff, changed.groups.count()) == ("Alicia", False, 0)


def test_only_superusers_can_change_superusers(open_as, administrator, sam, mailoutbox):
    client = open_as(administrator)
    before = User.objects.filter(pk=sam.pk).values().get()
    taken = {"usable_password": "true", "password1": "vera knows 1", "password2": "vera knows 1"}
    for response in (
        change(client, sam, email="mine@example.org"),
        client.post(f"{ACCOUNTS}{sam.pk}/password/", taken),
        client.post(f"{ACCOUNTS}{sam.pk}/disable/"),
        client.post(f"{ACCOUNTS}{sam.pk}/end-sessions/"),
        client.post(
            ACCOUNTS,
            {"action": "remove_factors", "_selected_action": str(sam.pk), "confirmed": "1"},
        ),
    ):
        assert response.status_code == 403
    assert User.objects.filter(pk=sam.pk).values().get() == before


@pytest.mark.parametrize("action", ["disable", "end-sessions"])
def test_security_cannot_act_on_staff_but_administrators_can(
    action, open_as, security, administrator, support
):
    url = f"{ACCOUNTS}{support.pk}/{action}/"
    assert open_as(security).post(url).status_code == 403
    assert open_as(administrator).post(url).status_code == 302


def test_support_is_offered_only_permitted_actions(open_as, support, alice, issue):
    key, _token = issue("studio")
    client = open_as(support)
    page = client.get(f"{ACCOUNTS}{alice.pk}/overview/").text
    assert f"{KEYS}{key.pk}/revoke/" in page
    for beyond in ("suspend/", "disable/", "end-sessions/"):
        assert beyond not in page
    assert "_selected" not in client.get(KEYS).text


# --- Groups ----------------------------------------------------------------------------------


def test_each_role_has_all_permissions_of_the_one_before():
    support, security, administrators = (permissions_of(role) for role in Role)
    assert support < security < administrators == {name for name, _role in PERMISSIONS}


def test_migrating_resets_the_groups_to_the_table(db):
    group = Group.objects.get(name=Role.SUPPORT)
    group.permissions.set(Permission.objects.filter(codename__in=["delete_site", "view_apikey"]))
    Group.objects.get(name=Role.SECURITY).delete()
    call_command("migrate", verbosity=0)
    for role in Role:
        held = Group.objects.get(name=role).permissions.values_list(
            "content_type__app_label", "codename"
        )
        assert {f"{app}.{name}" for app, name in held} == permissions_of(role)


def test_migrating_keeps_other_groups(db):
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
def test_a_staff_account_can_be_created_with_a_role(environment, db, said, role):
    environment(EMAIL="vera@example.org", ROLE=said)
    call_command("make_staff")
    vera = User.objects.get(email="vera@example.org")
    assert (vera.is_staff, vera.is_superuser) == (True, False)
    assert vera.get_all_permissions() == permissions_of(role)
    event = Event.objects.get(action=Action.STAFF_CHANGED)
    assert (event.account, event.via, event.detail["role"]) == (vera, Via.COMMAND, role)


def test_without_a_role_a_staff_account_is_a_superuser(environment, make_staff_member):
    make_staff_member(Role.SUPPORT, "vera@example.org")
    environment(EMAIL="vera@example.org", ROLE="")
    call_command("make_staff")
    vera = User.objects.get(email="vera@example.org")
    assert vera.is_superuser
    assert not vera.groups.exists()


def test_an_unknown_role_is_refused_with_a_message(environment, db):
    environment(EMAIL="vera@example.org", ROLE="janitor")
    with pytest.raises(CommandError, match="support, security, administrator"):
        call_command("make_staff")
    assert not User.objects.exists()


def test_the_last_administrator_keeps_all_permissions(environment, sam):
    environment(EMAIL=sam.email, ROLE="support")
    with pytest.raises(CommandError, match="last administrator"):
        call_command("make_staff")
    assert accounts.is_last_administrator(User.objects.get(pk=sam.pk))
