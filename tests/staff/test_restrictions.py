"""Restrictions of staff pages: filters, size of bulk actions, keys in fields."""

from datetime import timedelta

import pytest
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialApp
from django.conf import settings as configured
from django.contrib import admin
from django.contrib.admin.filters import SimpleListFilter
from django.contrib.auth.models import Group
from django.db import connection, models
from django.test import RequestFactory
from django.urls import reverse

from accounts.models import User
from apikeys.models import APIKey
from audit.models import Action, Event, Via
from audit.services import Actor, record
from oauth.models import Site
from outbox.models import Mail
from staff.restrictions import MAX_ACTION_ROWS
from staff.site import StaffSite
from tests.conftest import show_who

KEYS = "/admin/apikeys/apikey/"
EVENTS = "/admin/audit/event/"
ACCOUNTS = "/admin/accounts/user/"
ASKS = "/account/reauthenticate/factor?next=%2Fadmin%2Fapikeys%2Fapikey%2F"

# Lookups of each list besides single rows: those of filters and of links from other pages.
OFFERED = {
    "accounts.User": {
        "is_active__exact",
        "is_active__isnull",
        "is_staff__exact",
        "is_staff__isnull",
        "date_joined__gte",
        "date_joined__lt",
    },
    "outbox.Mail": {"state"},
    "apikeys.APIKey": {"state", "created_at__gte", "created_at__lt", "owner__id__exact"},
    "audit.Event": {
        "action__exact",
        "action__isnull",
        "via__exact",
        "via__isnull",
        "at__gte",
        "at__lt",
        "account__id__exact",
        "key_id__exact",
        "address",
        "address__exact",
    },
}


def changelist(model) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def paths(model, depth: int = 2):
    """Yield every field, also of related models."""
    yield "pk"
    for field in model._meta.get_fields():
        yield field.name
        if field.is_relation and depth > 1 and field.related_model:
            for path in paths(field.related_model, depth - 1):
                yield f"{field.name}__{path}"


def lookups(model):
    names = {name for field in model._meta.get_fields() for name in _lookups_of(field)}
    names |= set(models.CharField.get_lookups()) | set(models.DateTimeField.get_lookups())
    return sorted(names)


def _lookups_of(field):
    return field.get_lookups() if hasattr(field, "get_lookups") else ()


@pytest.mark.parametrize("model", admin.site._registry, ids=lambda model: model._meta.label)
def test_a_list_accepts_only_the_filters_that_it_shows(model, sam):
    """All models, fields and lookups, across one relation."""
    model_admin = admin.site._registry[model]
    request = RequestFactory().get("/")
    request.user = sam
    pk = model._meta.pk.name
    offered = OFFERED.get(model._meta.label, set()) | {f"{pk}__exact", "pk__exact"}
    names = [
        name
        for path in paths(model)
        for name in (path, *(f"{path}__{lookup}" for lookup in lookups(model)))
    ]
    names += [item.parameter_name for item in model_admin.list_filter if _is_simple(item)]
    assert len(names) > 100
    allowed = {name for name in names if model_admin.lookup_allowed(name, "1", request)}
    assert allowed == offered


def _is_simple(item):
    return isinstance(item, type) and issubclass(item, SimpleListFilter)


class LibraryAdmin(admin.ModelAdmin):
    """Registered as by a library."""

    list_filter = ("provider",)


def test_the_restrictions_apply_to_model_admins_of_libraries(sam):
    site = StaffSite()
    site.register(Authenticator)
    site.register(SocialAccount, LibraryAdmin)
    request = RequestFactory().get("/")
    request.user = sam
    for model, offered in ((Authenticator, set()), (SocialAccount, {"provider"})):
        model_admin = site._registry[model]
        names = {"provider", "data", "data__regex", "user__password__startswith", "uid__gt"}
        allowed = {name for name in names if model_admin.lookup_allowed(name, ".", request)}
        assert allowed == offered


@pytest.mark.parametrize(
    ("url", "query"),
    [
        ("/admin/outbox/mail/", "sealed_text__regex"),
        ("/admin/outbox/mail/", "sealed_text"),
        ("/admin/socialaccount/socialapp/", "secret__regex"),
        (KEYS, "encoded__startswith"),
        (KEYS, "owner__password__startswith"),
        (KEYS, "nonce"),
        (ACCOUNTS, "password__regex"),
        (ACCOUNTS, "api_keys__encoded__regex"),
        (EVENTS, "detail__contains"),
        (EVENTS, "actor__password__gt"),
    ],
)
def test_secrets_cannot_be_guessed_by_filters(superuser_browser, sam, url, query):
    SocialApp.objects.create(provider="google", name="Google", client_id="x", secret="s3cret")
    response = superuser_browser.get(url, {query: "."})
    assert response.status_code == 400
    assert "s3cret" not in response.text
    refused = Event.objects.get(action=Action.STAFF_REFUSED)
    assert refused.actor == sam
    assert query not in str(refused.detail)


SENSELESS = [
    (EVENTS, "address=abc"),
    (EVENTS, "address=%00"),
    (EVENTS, "address__exact=1.2.3"),
    (EVENTS, "account__id__exact=abc"),
    (EVENTS, "account__id__exact="),
    (EVENTS, "key_id__exact=%00"),
    (EVENTS, "action__exact=bogus"),
    (EVENTS, "action__exact=%00"),
    (EVENTS, "action__isnull=perhaps"),
    (EVENTS, "via__exact="),
    (EVENTS, "at__gte=yesterday"),
    (EVENTS, "id__exact=abc"),
    (EVENTS, "q=%00"),
    (EVENTS, "nothing=1"),
    (EVENTS, "%00=1"),
    (KEYS, "state=bogus"),
    (KEYS, "state=live&state=revoked"),
    (KEYS, "state="),
    (KEYS, "owner__id__exact=1"),
    (KEYS, "created_at__lt=%00"),
    (KEYS, "q=a%00b"),
    (ACCOUNTS, "is_active__exact=2"),
    (ACCOUNTS, "is_staff__exact=abc"),
    (ACCOUNTS, "date_joined__gte=2026-13-01"),
    ("/admin/auth/group/", "q=%00"),
    ("/admin/auth/group/", "id__exact=99999999999999999999999x"),
    ("/admin/outbox/mail/", "id__exact=abc"),
]


@pytest.mark.parametrize(("url", "query"), SENSELESS)
def test_an_invalid_filter_redirects_as_in_django(superuser_browser, url, query):
    response = superuser_browser.get(f"{url}?{query}")
    assert (response.status_code, response["Location"]) == (302, f"{url}?e=1")
    assert superuser_browser.get(f"{url}?e=1").status_code == 200


def test_a_time_beyond_the_last_year_causes_no_error(superuser_browser):
    """PostgreSQL has years of five digits; Python, and so SQLite's adapter, does not."""
    response = superuser_browser.get(f"{EVENTS}?at__gte=9999-12-31+23:59:59-14:00")
    assert response.status_code == (200 if connection.vendor == "postgresql" else 302)


def test_an_export_with_an_invalid_filter_is_refused(superuser_browser):
    for query in ("address=abc", "action__exact=bogus", "q=%00"):
        response = superuser_browser.get(f"{EVENTS}export/csv?{query}")
        assert (response.status_code, response["Location"]) == (302, f"{EVENTS}?e=1")
    assert not Event.objects.filter(action=Action.STAFF_EXPORTED).exists()


def test_events_can_be_filtered_by_client_ip(superuser_browser):
    for client_ip in ("198.51.100.7", "198.51.100.8"):
        record(Action.SIGNED_IN, by=Actor(via=Via.PAGE, client_ip=client_ip))
    listed = superuser_browser.get(EVENTS, {"address": "198.51.100.7"}).context["cl"].result_list
    assert [event.address for event in listed] == ["198.51.100.7"]


# --- Bulk actions ----------------------------------------------------------------------------


@pytest.fixture
def many(alice) -> list[APIKey]:
    return APIKey.objects.bulk_create(
        APIKey(
            owner=alice,
            name=f"render {number}",
            folded_name=f"render {number}",
            public_id=f"ffff{number:08x}",
            encoded="never matches",
        )
        for number in range(MAX_ACTION_ROWS + 1)
    )


def suspend(client, keys, **more):
    chosen = {"action": "suspend_selected", "_selected_action": [key.pk for key in keys]}
    return client.post(KEYS, {**chosen, "confirmed": "1", **more})


def suspended() -> int:
    return APIKey.objects.filter(suspended_at__isnull=False).count()


def test_at_most_a_hundred_keys_are_suspended_at_once(superuser_browser, many):
    for keys, more in ((many, {}), (many[:1], {"select_across": "1"})):
        assert suspend(superuser_browser, keys, **more).status_code == 302
        assert "At most 100 rows" in superuser_browser.get(KEYS).text
        assert suspended() == 0
    suspend(superuser_browser, many[:MAX_ACTION_ROWS])
    assert suspended() == MAX_ACTION_ROWS


def test_the_limit_applies_to_the_actions_of_every_list(superuser_browser):
    groups = Group.objects.bulk_create(Group(name=f"group {n}") for n in range(MAX_ACTION_ROWS + 1))
    body = {"action": "delete_selected", "post": "yes"}
    superuser_browser.post(
        "/admin/auth/group/", {**body, "_selected_action": [group.pk for group in groups]}
    )
    assert Group.objects.filter(name__startswith="group ").count() == MAX_ACTION_ROWS + 1


def test_no_bulk_action_revokes_keys(superuser_browser, many):
    assert "revoke_selected" not in superuser_browser.get(KEYS).text
    superuser_browser.post(
        KEYS,
        {"action": "revoke_selected", "_selected_action": many[0].pk, "confirmed": "1"},
    )
    assert not APIKey.objects.filter(revoked_at__isnull=False).exists()


@pytest.mark.parametrize("chosen", ["abc", "\0", "7"])
def test_rows_that_cannot_exist_are_refused_with_a_message(superuser_browser, many, chosen):
    response = superuser_browser.post(
        KEYS, {"action": "suspend_selected", "_selected_action": chosen}
    )
    assert response.status_code == 302
    assert "rows that are not in this list" in superuser_browser.get(KEYS).text


def test_bulk_actions_require_a_fresh_second_factor(superuser_browser, sam, many, settings):
    settings.STAFF_SECOND_FACTOR = True
    Authenticator.objects.create(user=sam, type=Authenticator.Type.TOTP, data={"secret": ""})
    show_who(superuser_browser, sam, method="mfa", type="totp", ago=timedelta(hours=1))
    for _try in range(2):
        response = suspend(superuser_browser, many[:2])
        assert response["Location"] == ASKS
        assert suspended() == 0
    # A fresh password is no second factor.
    session = superuser_browser.session
    records = session["account_authentication_methods"]
    show_who(superuser_browser, sam)
    session = superuser_browser.session
    session["account_authentication_methods"] = [
        *records,
        *session["account_authentication_methods"],
    ]
    session.save()
    suspend(superuser_browser, many[:2])
    assert suspended() == 0
    show_who(superuser_browser, sam, method="mfa", type="totp")
    suspend(superuser_browser, many[:2])
    assert suspended() == 2


def test_without_staff_mfa_bulk_actions_require_reauthentication(superuser_browser, sam, many):
    show_who(superuser_browser, sam, ago=timedelta(hours=1))
    response = suspend(superuser_browser, many[:2])
    assert response["Location"].startswith("/account/reauthenticate")
    assert suspended() == 0


# --- Permissions on keys ---------------------------------------------------------------------


@pytest.mark.parametrize("action", ["revoke", "suspend", "restore"])
def test_staff_cannot_act_on_a_key_of_a_user_with_more_permissions(
    action, open_as, security, administrator, sam, support, issue
):
    for owner, by in ((sam, security), (sam, administrator), (support, security)):
        key, _token = issue("theirs", owner=owner)
        if action == "restore":
            APIKey.objects.filter(pk=key.pk).update(suspended_at=key.created_at)
        before = APIKey.objects.filter(pk=key.pk).values().get()
        client = open_as(by)
        for response in (
            client.get(f"{KEYS}{key.pk}/{action}/"),
            client.post(f"{KEYS}{key.pk}/{action}/"),
            *(
                []
                if action == "revoke"
                else [bulk(client, action, key), bulk(client, action, key, "1")]
            ),
        ):
            assert response.status_code == 403
        assert APIKey.objects.filter(pk=key.pk).values().get() == before
        for page in (f"{KEYS}{key.pk}/change/", f"{ACCOUNTS}{owner.pk}/overview/"):
            assert f"{key.pk}/{action}/" not in client.get(page).text
        APIKey.objects.filter(pk=key.pk).update(revoked_at=key.created_at, revoked_reason="owner")


def bulk(client, action, key, confirmed=""):
    body = {"action": f"{action}_selected", "_selected_action": key.pk, "confirmed": confirmed}
    return client.post(KEYS, body)


def test_a_lookup_offers_no_action_on_a_key_of_a_user_with_more_permissions(
    open_as, security, sam, issue
):
    key, token = issue("theirs", owner=sam)
    shown = open_as(security).post("/admin/lookup/", {"token": token.reveal()}).text
    assert key.masked in shown
    assert f"{key.pk}/revoke/" not in shown


def test_one_key_beyond_ones_permissions_blocks_the_whole_selection(open_as, security, sam, issue):
    mine, _token = issue("alices")
    theirs, _token = issue("sams", owner=sam)
    assert suspend(open_as(security), [mine, theirs]).status_code == 403
    assert suspended() == 0


def test_administrators_act_on_keys_of_staff_and_superusers_on_all(
    open_as, administrator, support, sam, issue
):
    of_support, _token = issue("theirs", owner=support)
    of_administrator, _token = issue("theirs", owner=administrator)
    assert open_as(administrator).post(f"{KEYS}{of_support.pk}/suspend/").status_code == 302
    assert open_as(sam).post(f"{KEYS}{of_administrator.pk}/suspend/").status_code == 302
    assert suspended() == 2


# --- Keys in fields --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "form", "model"),
    [
        ("/admin/auth/group/add/", {"name": "{}"}, Group),
        ("/admin/oauth/site/add/", {"origin": "https://c.example", "note": "for {}"}, Site),
        (
            "/admin/socialaccount/socialapp/add/",
            {"provider": "google", "client_id": "{}", "secret": "x"},
            SocialApp,
        ),
    ],
)
def test_no_field_of_the_staff_pages_accepts_a_key(superuser_browser, issue, url, form, model):
    _key, token = issue("studio")
    before = model.objects.count()
    body = {name: value.format(token.reveal()) for name, value in form.items()}
    response = superuser_browser.post(url, body)
    assert response.status_code == 200
    assert "contains a whole API key" in response.text
    assert token.reveal()[20:] not in response.text
    assert model.objects.count() == before


def test_names_entered_by_staff_are_neither_keys_nor_empty(superuser_browser, alice, issue):
    _key, token = issue("studio")
    for name in (token.reveal(), "\u2800", "\u3164\u200b"):
        response = superuser_browser.post(
            f"{ACCOUNTS}{alice.pk}/change/", {"email": alice.email, "name": name, "is_active": "on"}
        )
        assert response.status_code == 200
        assert User.objects.get(pk=alice.pk).name == "Alice"


def test_pending_emails_are_listed_without_filters_on_their_text(superuser_browser):
    Mail.objects.create(to="a@example.org", sender="b@example.org", subject="Code", text="K3Y")
    assert "K3Y" not in superuser_browser.get("/admin/outbox/mail/").text
    assert configured.SECRET_KEY not in superuser_browser.get("/admin/outbox/mail/").text


# --- Index -----------------------------------------------------------------------------------


@pytest.mark.parametrize("language", [code for code, _name in configured.LANGUAGES])
def test_the_groups_of_the_staff_index_have_distinct_names(superuser_browser, language):
    page = superuser_browser.get("/admin/", headers={"accept-language": language})
    names = [group["name"] for group in page.context["app_list"]]
    assert len(names) == len(set(names)) >= 5
    shown = {model["admin_url"] for group in page.context["app_list"] for model in group["models"]}
    assert shown == {changelist(model) for model in admin.site._registry}
