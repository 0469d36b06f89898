from collections.abc import Iterator

from django.contrib.auth.models import User
from knox.models import AuthToken


def keys(number: int) -> Iterator[str]:
    # One token per user: a request reads all tokens of its user.
    users = User.objects.bulk_create(User(username=f"user{i}") for i in range(number))
    for user in users:
        yield AuthToken.objects.create(user)[1]
