"""The hasher that the settings configure: peppers, cost and concurrency of Argon2id."""

from functools import cache

from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver

from apikeys.hashing import Cost, Hasher


@cache
def key_hasher() -> Hasher:
    """Return this process's hasher. Its `tag_keys` are newest first."""
    return Hasher(
        peppers=[settings.KEY_PEPPER, *settings.KEY_PEPPER_FALLBACKS],
        cost=Cost(
            memory_kib=settings.ARGON2_MEMORY_KIB,
            passes=settings.ARGON2_PASSES,
            lanes=settings.ARGON2_LANES,
        ),
        concurrency=settings.ARGON2_CONCURRENCY,
    )


@receiver(setting_changed)
def _reset(*, setting: str, **_: object) -> None:
    if setting.startswith(("ARGON2", "KEY_PEPPER")):
        key_hasher.cache_clear()
