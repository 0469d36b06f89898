"""What the trail hears of keys at work: from which networks good ones come, which are refused.

Noted in memory and written by whoever writes the counts (usage.py): no answer waits for it. The
fast lane sends a key's use here once for each address that it comes from. Only keys whose secret
was proved are noted: what strangers make up is nobody's, and would fill the trail.
"""

import functools
import ipaddress
import logging
import os
from collections import deque
from collections.abc import Hashable, Mapping, MutableMapping
from datetime import datetime, timedelta
from itertools import batched
from threading import Lock
from typing import Final, NamedTuple
from uuid import UUID

from cachetools import LRUCache, TTLCache
from django.db import Error, transaction
from django.utils import timezone

from apikeys.models import APIKey, KeyNetwork
from audit.models import Action, Via
from audit.trail import Actor, record

logger = logging.getLogger(__name__)

# What a provider gives to one customer, near enough: an address within changes every day.
_BITS: Final = {4: 24, 6: 48}
# A machine goes on with its dead key for days. Once an hour says as much, for each network.
_SAID_FOR: Final = timedelta(hours=1)
# How much of what was noted is remembered as such. What is forgotten is looked up once more.
_REMEMBERED: Final = 65_536
# So many are written at once: the keys stay locked no longer than that takes.
_BATCH: Final = 100


class Noted(NamedTuple):
    key_id: UUID
    # Why it was refused; "" for a use.
    refusal: str
    address: str
    at: datetime


_networks: LRUCache[Hashable, bool] = LRUCache(maxsize=_REMEMBERED)
_refusals: TTLCache[Hashable, bool] = TTLCache(_REMEMBERED, ttl=_SAID_FOR.total_seconds())
_noted: deque[Noted] = deque()
_lock = Lock()


@functools.lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """`192.0.2.0/24` for 192.0.2.7; of an IPv6 address the first 48 bits. "" for no address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    # An IPv4 client of a socket for both (RFC 4291 §2.5.5.2).
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    parsed = mapped or parsed
    return str(ipaddress.ip_network((parsed, _BITS[parsed.version]), strict=False))


def used(key_id: UUID, address: str) -> None:
    """A good key came from `address`, now."""
    if network := network_of(address):
        _note(_networks, (key_id, network), Noted(key_id, "", address, timezone.now()))


def refused(key_id: UUID, why: str, address: str) -> None:
    """A key that was proved, and is not good, came from `address`, now. why: the verdict's code."""
    if network := network_of(address):
        _note(_refusals, (key_id, why, network), Noted(key_id, why, address, timezone.now()))


def _note(known: MutableMapping[Hashable, bool], what: Hashable, noted: Noted) -> None:
    with _lock:
        if what in known:
            return
        known[what] = True
    _noted.append(noted)


def flush() -> None:
    """Writes what was noted. What can't be written now is kept for the next time."""
    waiting = [_noted.popleft() for _ in range(len(_noted))]
    for batch in batched(waiting, _BATCH):
        try:
            with transaction.atomic():
                _write(batch)
        except Error:
            logger.warning("What keys met could not be written down; it is kept for later.")
            _noted.extend(batch)


def _write(batch: tuple[Noted, ...]) -> None:
    ids = {noted.key_id for noted in batch}
    # Locked first and in order, as by whoever ends one or counts its uses.
    keys = APIKey.objects.select_for_update(no_key=True).order_by("pk").in_bulk(ids)
    has_networks = set(KeyNetwork.objects.filter(key__in=ids).values_list("key_id", flat=True))
    for noted in batch:
        key = keys.get(noted.key_id)
        if key is None:
            # Gone with its account.
            continue
        if noted.refusal:
            _record(Action.KEY_REFUSED, key, noted, {"code": noted.refusal})
        elif network := _add_network(noted):
            first = {} if key.pk in has_networks else {"first": "yes"}
            has_networks.add(key.pk)
            _record(Action.KEY_NEW_NETWORK, key, noted, {"network": network, **first})


def _add_network(noted: Noted) -> str | None:
    """The network, if the key was never used from there before."""
    network = network_of(noted.address)
    _row, is_new = KeyNetwork.objects.get_or_create(
        key_id=noted.key_id, network=network, defaults={"first_used_at": noted.at}
    )
    return network if is_new else None


def _record(action: Action, key: APIKey, noted: Noted, detail: Mapping[str, str]) -> None:
    by = Actor(via=Via.API, address=noted.address)
    record(action, account_id=key.owner_id, key=key, by=by, detail=detail, at=noted.at)


def forget() -> None:
    """Begins anew, as in a child: what was noted is its parent's to write."""
    _noted.clear()
    _networks.clear()
    _refusals.clear()


os.register_at_fork(after_in_child=forget)
