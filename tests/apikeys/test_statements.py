"""How many SQL statements it takes to create and delete a key, with rate limits in the database.

Tests here commit: BEGIN and COMMIT are statements as well.
"""

import re

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from apikeys.models import APIKey
from tests.factories import generate_key

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alice_client(database_cache, signed_in, alice):
    alice_client = signed_in(alice)
    alice_client.get("/keys/")
    return alice_client


@pytest.fixture
def _with_outbox(with_mail, alice):
    alice.emailaddress_set.create(email=alice.email, verified=True, primary=True)
    with_mail.MAILERS = {"default": {"BACKEND": "outbox.backend.OutboxBackend"}}


def test_a_key_is_created_in_eighteen_statements(alice_client, django_assert_num_queries):
    with django_assert_num_queries(18):
        assert generate_key(alice_client, "the first in this hour").status_code == 200
    with django_assert_num_queries(18):
        assert generate_key(alice_client, "another").status_code == 200


@pytest.mark.usefixtures("_with_outbox")
def test_a_key_is_created_and_its_owner_notified_in_twenty(alice_client, django_assert_num_queries):
    with django_assert_num_queries(20):
        assert generate_key(alice_client, "studio").status_code == 200


def test_a_key_is_deleted_in_eight_statements(alice_client, django_assert_num_queries):
    assert generate_key(alice_client, "studio").status_code == 200
    key = APIKey.objects.get()
    with django_assert_num_queries(8):
        alice_client.post(f"/keys/{key.pk}/delete")
    key.refresh_from_db()
    assert key.revoked_reason == "owner"


@pytest.mark.usefixtures("database_cache")
def test_nobody_asks_for_the_keys_of_an_account_that_is_being_created():
    with CaptureQueriesContext(connection) as captured:
        response = Client().post(
            "/signup", {"email": "new@example.org", "password1": "correct horse battery staple x"}
        )
    assert response.status_code == 302
    statements = [query["sql"] for query in captured.captured_queries]
    assert any("INSERT INTO" in sql and "accounts_user" in sql for sql in statements)
    assert not [sql for sql in statements if re.search(r"\bapikeys_", sql)]
