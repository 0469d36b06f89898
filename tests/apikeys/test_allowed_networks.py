"""Keys that may be used from some networks only, on every path of a validation."""

import base64
from datetime import timedelta
from urllib.parse import urlencode

import pytest
from django.test import Client

from apikeys import allowed_networks, services, usage
from apikeys.allowed_networks import HostBitsError
from apikeys.models import APIKey
from apikeys.services import VerdictCode
from audit import formatting
from audit.models import Action, Event, Via
from audit.services import Actor
from core.client_ip import apply_forwarded_headers
from tests.factories import exported, generate_key, run_command

NETWORKS = ["203.0.113.0/24", "2001:db8:1::/48"]
INSIDE, OUTSIDE = "203.0.113.7", "198.51.100.7"
SECRET = "s" * 40
CODE = VerdictCode.NETWORK_NOT_ALLOWED


@pytest.fixture
def restricted(issue):
    return issue("studio", allowed_networks=NETWORKS)


def call(token, method, path, client_ip, data=None, **headers):
    return Client().generic(
        method,
        path,
        data or "",
        content_type="application/json",
        headers={"X-API-Key": token.reveal(), **headers},
        REMOTE_ADDR=client_ip,
    )


def code_of(response) -> str:
    return response.json()["error"]


# --- The list ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        (" 192.0.2.0/24 ", "192.0.2.0/24"),
        ("2001:DB8:0::/32", "2001:db8::/32"),
        ("2001:db8::7", "2001:db8::7/128"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ],
)
def test_a_network_has_one_form(text, network):
    assert allowed_networks.normalize(text) == network


@pytest.mark.parametrize(
    "text",
    [
        "", "everywhere", "192.0.2", "192.0.2.0/33", "192.0.2.0/", "192.0.2.0/-1", "192.0.2.0/ 24",
        "192.0.2.0/255.255.255.0", "192.0.2.0/0.0.0.255", "192.0.2.0/24/24", "192.0.2.07",
        "2001:db8::/129", "fe80::1%eth0", "[2001:db8::7]", "192.0.2.7:80", "192.0.2.0/٢٤",
    ],
)  # fmt: skip
def test_other_texts_are_no_networks(text):
    with pytest.raises(ValueError):  # noqa: PT011 (any message)
        allowed_networks.normalize(text)


@pytest.mark.parametrize(
    ("text", "host", "network"),
    [
        ("192.0.2.7/24", "192.0.2.7", "192.0.2.0/24"),
        ("2001:db8::7/64", "2001:db8::7", "2001:db8::/64"),
    ],
)
def test_an_address_with_a_prefix_is_ambiguous(text, host, network):
    with pytest.raises(HostBitsError) as error:
        allowed_networks.normalize(text)
    assert (error.value.host, error.value.network) == (host, network)


def test_twenty_of_the_longest_networks_fit_into_a_row(issue):
    longest = [f"ffff:ffff:ffff:ffff:ffff:ffff:ffff:f{number:03x}" for number in range(20)]
    key, _token = issue(allowed_networks=longest)
    key.full_clean(exclude={"nonce"})
    assert len(APIKey.objects.get(pk=key.pk).allowed_network_list) == 20


@pytest.mark.parametrize(
    ("wide", "narrow", "covers"),
    [
        ("", "192.0.2.0/24", True),
        ("", "", True),
        ("192.0.2.0/24", "", False),
        ("192.0.2.0/24 2001:db8::/32", "2001:db8:1::/48 192.0.2.7/32", True),
        ("192.0.2.0/24", "192.0.2.0/23", False),
        ("0.0.0.0/0", "::/0", False),
    ],
)
def test_a_list_covers_narrower_ones(wide, narrow, covers):
    assert allowed_networks.cover(wide, narrow) is covers


# --- Verdicts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client_ip", "is_allowed"),
    [
        (INSIDE, True),
        ("::ffff:203.0.113.7", True),
        ("2001:db8:1:2::3", True),
        (OUTSIDE, False),
        ("::ffff:198.51.100.7", False),
        ("2001:db8:2::3", False),
        ("", False),
        ("unix", False),
        (None, False),
    ],
)
def test_the_client_ip_decides(restricted, client_ip, is_allowed):
    _key, token = restricted
    verdict = services.validate(token.reveal(), client_ip=client_ip)
    assert verdict.code is (VerdictCode.VALID if is_allowed else CODE)


def test_without_a_list_no_client_ip_is_needed(issue):
    _key, token = issue()
    assert services.validate(token.reveal()).code is VerdictCode.VALID


def test_a_refused_use_is_not_counted_and_becomes_an_event(restricted, alice):
    key, token = restricted
    assert call(token, "POST", "/customers", OUTSIDE).status_code == 403
    usage.flush()
    key.refresh_from_db()
    assert key.last_used_at is None
    event = Event.objects.get(action=Action.KEY_REFUSED)
    assert (event.account, event.address) == (alice, OUTSIDE)
    assert event.detail == {"code": "NETWORK_NOT_ALLOWED"}
    assert formatting.format_detail(event) == "network not allowed"


def test_what_is_no_use_needs_no_network(restricted):
    _key, token = restricted
    assert services.validate(token.reveal(), is_use=False).code is VerdictCode.VALID


# --- Endpoints --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/customers"),
        ("GET", "/customers/me"),
        ("GET", "/customers/api-keys"),
        ("GET", "/api/v1/auth"),
        ("GET", "/api/v1/auth/some/path"),
        ("POST", "/api/v1/keys/validate"),
        ("POST", "/proxy/openai/v1/images"),
        ("GET", "/api/workspaces/current"),
        ("POST", "/customers/storage"),
    ],
)
def test_every_endpoint_that_takes_a_key_refuses_other_networks(restricted, method, path):
    _key, token = restricted
    for refused_ip in (OUTSIDE, "", "2001:db8:2::1"):
        response = call(token, method, path, refused_ip)
        assert (response.status_code, code_of(response)) == (403, CODE)
        assert "network" in response.json()["message"]
        assert "WWW-Authenticate" not in response
    # 400: without a body.
    assert call(token, method, path, INSIDE).status_code in {200, 204, 400, 404}


def test_a_trusted_proxy_states_the_client_ip(restricted):
    _key, token = restricted

    def code(peer, forwarded):
        environ = {"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded}
        seen = {}

        def application(environ, _start_response):
            seen.update(environ)
            return []

        apply_forwarded_headers(application, proxies=["192.0.2.1"], header=None)(environ, None)
        return call(token, "GET", "/api/v1/auth", seen["REMOTE_ADDR"]).status_code

    assert code("192.0.2.1", INSIDE) == 204
    assert code("192.0.2.1", OUTSIDE) == 403
    assert code("192.0.2.1", f"{INSIDE}, {OUTSIDE}") == 403
    # The header of any other peer counts for nothing.
    assert code(OUTSIDE, INSIDE) == 403


def ask(client, path, body, **headers):
    return client.post(path, body, content_type="application/json", headers=headers)


VALIDATE = "/api/v1/keys/validate"
BEARER = {"Authorization": f"Bearer {SECRET}"}


def named(token, client_ip, *, peer, **headers):
    """Validate by the JSON form, from `peer`, for a client with `client_ip`."""
    more = {} if client_ip is None else {"client_ip": client_ip}
    response = Client(REMOTE_ADDR=peer).post(
        VALIDATE,
        {"key": token.reveal(), **more},
        content_type="application/json",
        headers=headers,
    )
    assert response.status_code == 200, response.content
    return response.json()["code"]


def test_a_service_names_the_client_ip(client, restricted, settings):
    settings.SERVICE_SECRETS = [SECRET]
    _key, token = restricted
    assert named(token, INSIDE, peer=OUTSIDE, **BEARER) == "VALID"
    for client_ip in (None, OUTSIDE):
        assert named(token, client_ip, peer=INSIDE, **BEARER) == CODE
    for wrong in ("", "everywhere", None, 7, "203.0.113.0/24"):
        response = ask(client, VALIDATE, {"key": token.reveal(), "client_ip": wrong}, **BEARER)
        assert response.status_code == 400, wrong


@pytest.mark.parametrize(
    ("peer", "client_ip", "code"),
    [
        (OUTSIDE, INSIDE, CODE),
        (OUTSIDE, None, CODE),
        (INSIDE, OUTSIDE, CODE),
        # Without a named client a gateway does not lend its own network to all its clients.
        (INSIDE, None, CODE),
        (INSIDE, INSIDE, "VALID"),
        ("", INSIDE, CODE),
    ],
)
def test_a_holder_can_name_no_other_client_ip(restricted, settings, peer, client_ip, code):
    settings.SERVICE_SECRETS = [SECRET]
    key, token = restricted
    assert named(token, client_ip, peer=peer) == code
    usage.flush()
    assert not key.networks.exists(), "the holder can invent networks"


def test_anyone_may_name_the_client_ip_of_a_key_without_a_list(issue):
    _key, token = issue("studio")
    assert named(token, INSIDE, peer=OUTSIDE) == "VALID"


def test_a_trusted_proxy_names_the_client_ip(restricted, settings):
    settings.TRUSTED_PROXIES = ["192.0.2.1"]
    key, token = restricted
    assert named(token, INSIDE, peer="192.0.2.1") == "VALID"
    assert named(token, OUTSIDE, peer="192.0.2.1") == CODE
    assert named(token, INSIDE, peer="192.0.2.2") == CODE
    usage.flush()
    assert key.networks.count() == 1


@pytest.mark.parametrize(
    "header",
    [{"X-Forwarded-For": "192.0.2.1"}, {"X-Real-IP": "192.0.2.1"}, {"Forwarded": "for=_x"}],
)
def test_a_request_that_a_trusted_proxy_forwards_does_not_name_it(restricted, settings, header):
    """All machines of a wide range are trusted, and its load balancers hide the client's IP."""
    settings.TRUSTED_PROXIES = ["192.0.2.1"]
    assert named(restricted[1], INSIDE, peer="192.0.2.1", **header) == CODE


@pytest.mark.parametrize(
    ("secrets", "authorization", "status", "error"),
    [
        ([f"gateway:introspect:{SECRET}"], BEARER["Authorization"], 403, "INSUFFICIENT_SCOPE"),
        ([SECRET], "Bearer another", 401, "UNAUTHORIZED"),
        ([], BEARER["Authorization"], 400, "AMBIGUOUS_KEY"),
    ],
)
def test_a_caller_that_is_no_service_is_refused(
    client, restricted, settings, secrets, authorization, status, error
):
    settings.SERVICE_SECRETS = secrets
    body = {"key": restricted[1].reveal(), "client_ip": INSIDE}
    response = ask(client, VALIDATE, body, Authorization=authorization)
    assert (response.status_code, code_of(response)) == (status, error)


def test_a_refusal_does_not_name_the_allowed_networks(restricted):
    _key, token = restricted
    body = {"key": token.reveal(), "client_ip": INSIDE}
    response = Client(REMOTE_ADDR=OUTSIDE).post(VALIDATE, body, content_type="application/json")
    assert "203.0.113" not in response.content.decode()
    header = {"X-API-Key": token.reveal()}
    response = Client(REMOTE_ADDR=OUTSIDE).post(VALIDATE, headers=header)
    assert "203.0.113" not in response.content.decode()


def test_a_service_names_the_client_ip_of_each_key(client, restricted, issue, settings):
    settings.SERVICE_SECRETS = [SECRET]
    _key, token = restricted
    _other, unrestricted = issue("laptop")
    keys = [token.reveal(), token.reveal(), token.reveal(), unrestricted.reveal()]
    path, headers = "/api/v1/keys/validate/batch", {"Authorization": f"Bearer {SECRET}"}

    def codes(**more):
        body = ask(client, path, {"keys": keys, **more}, **headers).json()
        return [verdict["code"] for verdict in body["verdicts"]]

    assert codes() == [CODE, CODE, CODE, "VALID"]
    assert codes(client_ips=[INSIDE, OUTSIDE, None, None]) == ["VALID", CODE, CODE, "VALID"]
    for wrong in ([INSIDE], [INSIDE, OUTSIDE, None, "x"], INSIDE):
        assert ask(client, path, {"keys": keys, "client_ips": wrong}, **headers).status_code == 400


def test_admin_verify_judges_the_client_ip(client, restricted, settings):
    settings.SERVICE_SECRETS = [SECRET]
    _key, token = restricted
    path, headers = "/admin/verify-api-key", {"X-Comfy-Admin-Secret": SECRET}
    assert ask(client, path, {"api_key": token.reveal()}, **headers).json()["error"] == CODE
    outside = {"api_key": token.reveal(), "client_ip": OUTSIDE}
    assert ask(client, path, outside, **headers).status_code == 403
    inside = {"api_key": token.reveal(), "client_ip": INSIDE}
    assert ask(client, path, inside, **headers).json()["valid"] is True


def test_introspection_judges_the_client_ip(client, restricted, settings):
    settings.SERVICE_SECRETS = [SECRET]
    _key, token = restricted
    basic = base64.b64encode(f"x:{SECRET}".encode()).decode()

    def introspect(**more):
        return client.post(
            "/oauth/introspect",
            urlencode({"token": token.reveal(), **more}),
            content_type="application/x-www-form-urlencoded",
            headers={"Authorization": f"Basic {basic}"},
        )

    assert introspect(client_ip=INSIDE).json()["active"] is True
    assert introspect(client_ip=OUTSIDE).json() == {"active": False}
    assert introspect().json() == {"active": False}
    assert introspect(client_ip="everywhere").status_code == 400


def test_the_holder_of_a_key_can_revoke_it_from_anywhere(client, restricted):
    key, token = restricted
    client.post(
        "/oauth/revoke",
        urlencode({"token": token.reveal()}),
        content_type="application/x-www-form-urlencoded",
        REMOTE_ADDR=OUTSIDE,
    )
    key.refresh_from_db()
    assert key.revoked_at is not None


# --- Set and copy the list --------------------------------------------------------------------


def test_the_form_takes_networks_in_lines(here, alice):
    page = generate_key(here, allowed_networks="203.0.113.7\r\n2001:db8::/48, 192.0.2.0/24")
    assert page.status_code == 200
    key = APIKey.objects.get()
    assert key.allowed_network_list == ("203.0.113.7/32", "2001:db8::/48", "192.0.2.0/24")


def test_the_form_keeps_a_network_that_it_refuses(here, alice):
    page = generate_key(here, allowed_networks="203.0.113.7/24")
    assert page.status_code == 400
    assert "203.0.113.7/24" in page.context["form"]["allowed_networks"].value()
    assert page.context["form"].errors["allowed_networks"]
    assert page.context["form"].has_options
    assert not APIKey.objects.exists()


def test_the_test_of_a_key_names_its_networks_to_the_owner_only(
    client, restricted, signed_in, alice, mallory
):
    _key, token = restricted
    for user, is_owner in ((None, False), (mallory, False), (alice, True)):
        browser = client if user is None else signed_in(user)
        page = browser.post("/connect", {"key": token.reveal()}, REMOTE_ADDR=OUTSIDE).text
        assert ("203.0.113.0/24, 2001:db8:1::/48" in page) is is_owner
        assert ("from some networks only" in page) is not is_owner


def test_a_command_issues_a_key_for_networks(alice):
    run_command(
        "issue_key", alice.email, "--name=studio", "--allowed-networks", "203.0.113.7", "::1"
    )
    assert APIKey.objects.get().allowed_network_list == ("203.0.113.7/32", "::1/128")


def test_a_successor_keeps_the_networks(restricted, alice):
    key, _token = restricted
    by = Actor(user=alice, via=Via.PAGE)
    _successor, token = services.rotate(key, overlap=timedelta(0), by=by)
    assert services.validate(token.reveal(), client_ip=OUTSIDE).code is CODE


def test_a_key_creates_keys_for_its_own_networks_only(issue, settings):
    settings.KEYS_MAY_CREATE_KEYS = True
    wide, _token = issue("wide")
    _key, token = issue("studio", allowed_networks=["203.0.113.0/24"])

    def create(data):
        return call(token, "POST", "/customers/api-keys", INSIDE, data)

    assert code_of(create('{"name": "a", "allowed_networks": []}')) == (
        "MORE_NETWORKS_THAN_ITS_MAKER"
    )
    created = create('{"name": "b"}').json()["api_key"]
    assert created["allowed_networks"] == ["203.0.113.0/24"]
    created = create('{"name": "c", "allowed_networks": ["203.0.113.7"]}').json()["api_key"]
    assert created["allowed_networks"] == ["203.0.113.7/32"]
    path = f"/customers/api-keys/{wide.pk}/roll"
    rotated = call(token, "POST", path, INSIDE, '{"overlap_seconds": 0}')
    assert code_of(rotated) == "MORE_NETWORKS_THAN_ITS_MAKER"


def test_the_export_has_the_networks(here, restricted):
    assert NETWORKS[0] in str(exported(here))
