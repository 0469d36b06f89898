from collections.abc import Iterator
from datetime import timedelta

from django.contrib.auth.models import User
from django.utils import timezone
from oauth2_provider.models import AccessToken, Application
from oauthlib.common import generate_token


def keys(number: int) -> Iterator[str]:
    """Yield the access token of the resource server, then the tokens to introspect."""
    users = User.objects.bulk_create(User(username=f"user{i}") for i in range(number + 1))
    application = Application.objects.create(
        name="resource server",
        user=users[0],
        client_type=Application.CLIENT_CONFIDENTIAL,
        authorization_grant_type=Application.GRANT_CLIENT_CREDENTIALS,
    )
    for i, user in enumerate(users):
        token = generate_token()
        AccessToken.objects.create(
            user=user,
            token=token,
            application=application,
            expires=timezone.now() + timedelta(days=1),
            scope="introspection" if i == 0 else "read",
        )
        yield token
