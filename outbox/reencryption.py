"""Rotation of SECRET_KEY for pending e-mails: count them by key, and re-encrypt them."""

from collections import Counter
from itertools import batched
from typing import Final

from django.conf import settings

from core.encryption import key_id
from outbox import encryption
from outbox.models import Mail

_BATCH: Final = 500


def count_by_key() -> Counter[str | None]:
    """Count pending e-mails by the id of their SECRET_KEY; None: no configured key decrypts them.

    An e-mail with texts under several keys counts for a former one.
    """
    return Counter(map(_key_of, Mail.objects.order_by().iterator()))


def reencrypt() -> int:
    """Re-encrypt pending e-mails under the current SECRET_KEY. Return the number of changes."""
    current, changed = key_id(settings.SECRET_KEY), 0
    for ids in batched(Mail.objects.order_by("pk").values_list("pk", flat=True), _BATCH):
        for mail in Mail.objects.filter(pk__in=ids):
            if _key_of(mail) in {current, None}:
                continue
            # Only these columns: a process that delivers the e-mail changes due_at and tries.
            changed += Mail.objects.filter(pk=mail.pk).update(
                sealed_text=encryption.encrypt(mail.text), sealed_html=encryption.encrypt(mail.html)
            )
    return changed


def _key_of(mail: Mail) -> str | None:
    keys = {encryption.key_of(sealed) for sealed in (mail.sealed_text, mail.sealed_html) if sealed}
    current = key_id(settings.SECRET_KEY)
    if None in keys:
        return None
    return next((key for key in keys if key != current), current)
