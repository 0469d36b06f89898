from collections.abc import Iterator

from rest_framework_api_key.models import APIKey


def keys(number: int) -> Iterator[str]:
    for i in range(number):
        yield APIKey.objects.create_key(name=f"key {i}")[1]
