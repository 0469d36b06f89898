"""Pages answer 405 to other methods than GET, HEAD and POST, before any redirect to log in."""

import pytest

PAGES = [
    "/", "/login", "/signup", "/login/code", "/connect", "/leaks", "/keys/", "/keys/generate",
    "/account/", "/account/email", "/account/sessions", "/account/factors", "/account/delete",
    "/account/password/change", "/account/password/reset", "/device", "/health", "/ready",
    "/admin/", "/admin/login/", "/admin/accounts/user/", "/admin/logout/", "/logout", "/language",
]  # fmt: skip
METHODS = ["TRACE", "TRACK", "DEBUG", "PROPFIND", "PUT", "PATCH", "DELETE"]


@pytest.mark.parametrize("who", ["anonymous", "superuser"])
def test_a_page_rejects_methods_other_than_its_own(client, signed_in, alice, who):
    alice.is_staff = alice.is_superuser = True
    alice.save()
    visitor = client if who == "anonymous" else signed_in(alice)
    for path in PAGES:
        for method in METHODS:
            answer = visitor.generic(method, path)
            # Not a redirect to the login page.
            assert answer.status_code == 405, (method, path)
            assert method not in answer["Allow"]
