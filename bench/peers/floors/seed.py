from collections.abc import Iterator

from django.contrib.auth.models import User
from rest_framework.authtoken.models import Token


def keys(number: int) -> Iterator[str]:
    users = User.objects.bulk_create(User(username=f"user{i}") for i in range(number))
    for user in users:
        yield Token.objects.create(user=user).key
