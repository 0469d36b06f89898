"""Audit events about the use of keys: new networks, refused keys, requests of services.

They are queued in memory and written by the thread of usage.py, so that no response waits. The
validation cache reports one use per key and client IP at least every CACHE_MAX_AGE seconds. Only
keys with a verified secret count: others belong to no account and could fill the audit log.

`KeyNetwork.last_used_at` is written once per hour, network and process: it is up to an hour late.
"""

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
from audit.services import Actor, record
from core.client_ip import client_network

logger = logging.getLogger(__name__)

# About what a provider assigns to one customer: IPs within it may change every day.
_IPV4_PREFIX: Final = 24
_IPV6_PREFIX: Final = 48
# Clients go on using a refused key for days: one event per hour and network.
_EVENT_INTERVAL: Final = timedelta(hours=1)
# Maximum of known networks and refusals. Evicted ones are looked up again.
_MAX_KNOWN: Final = 65_536
_MAX_SERVICES: Final = 4096
# Uses per transaction, during which the keys are locked.
_BATCH: Final = 100


class ServiceRequest(NamedTuple):
    """A request of a service with a valid secret."""

    name: str
    scope: str
    client_ip: str
    refused: bool
    at: datetime


class KeyUse(NamedTuple):
    key_id: UUID
    # The verdict's code; "" if the key was valid.
    refusal: str
    client_ip: str
    at: datetime


class UseEvents:
    """The queued events of a process, and what it has reported already."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Reset all state, also in a forked child: its parent writes the queued events."""
        seconds = _EVENT_INTERVAL.total_seconds()
        # The hour of the last use that was queued.
        self._networks: LRUCache[Hashable, datetime] = LRUCache(_MAX_KNOWN)
        self._refusals: TTLCache[Hashable, bool] = TTLCache(_MAX_KNOWN, ttl=seconds)
        self._services: TTLCache[Hashable, bool] = TTLCache(_MAX_SERVICES, ttl=seconds)
        self._uses: deque[KeyUse] = deque()
        self._service_requests: deque[ServiceRequest] = deque()
        self._lock = Lock()

    def used(self, key_id: UUID, client_ip: str) -> None:
        """Record that a valid key was used from `client_ip`, once per hour and network."""
        network = customer_network(client_ip)
        if not network:
            return
        now = timezone.now()
        hour = now.replace(minute=0, second=0, microsecond=0)
        with self._lock:
            if self._networks.get((key_id, network)) == hour:
                return
            self._networks[key_id, network] = hour
        self._uses.append(KeyUse(key_id, "", client_ip, now))

    def refused(self, key_id: UUID, code: str, client_ip: str) -> None:
        """Record that a key with the right secret was refused. code: the verdict's."""
        network = customer_network(client_ip)
        if network and self._is_new(self._refusals, (key_id, code, network)):
            self._uses.append(KeyUse(key_id, code, client_ip, timezone.now()))

    def service(self, name: str, scope: str, client_ip: str | None, *, refused: bool) -> None:
        """Record a request of a service, or its refusal for want of `scope`.

        At most one event per hour for each service, scope and network.
        """
        client_ip = client_ip or ""
        if self._is_new(self._services, (name, scope, customer_network(client_ip), refused)):
            request = ServiceRequest(name, scope, client_ip, refused, timezone.now())
            self._service_requests.append(request)

    def _is_new(self, known: MutableMapping[Hashable, bool], use: Hashable) -> bool:
        with self._lock:
            if use in known:
                return False
            known[use] = True
        return True

    def flush(self) -> None:
        """Write the queued events. After a database error they are kept for the next call."""
        self._flush_services()
        waiting = [self._uses.popleft() for _ in range(len(self._uses))]
        for batch in batched(waiting, _BATCH):
            try:
                with transaction.atomic():
                    _write(batch)
            except Error:
                logger.warning("Networks of keys could not be written; they are kept for later.")
                self._uses.extend(batch)

    def _flush_services(self) -> None:
        requests = self._service_requests
        waiting = [requests.popleft() for _ in range(len(requests))]
        if not waiting:
            return
        try:
            with transaction.atomic():
                for request in waiting:
                    record(
                        Action.SERVICE_REFUSED if request.refused else Action.SERVICE_USED,
                        by=Actor(via=Via.API, client_ip=request.client_ip or None),
                        detail={"service": request.name, "scope": request.scope},
                        at=request.at,
                    )
        except Error:
            logger.warning("Requests of services could not be written; they are kept for later.")
            requests.extend(waiting)


def customer_network(ip: str) -> str:
    """Return `192.0.2.0/24` for 192.0.2.7, the first 48 bits of IPv6, or "" without an IP."""
    return client_network(ip, ipv4_prefix=_IPV4_PREFIX, ipv6_prefix=_IPV6_PREFIX)


def _write(batch: tuple[KeyUse, ...]) -> None:
    ids = {use.key_id for use in batch}
    # Locked first and in order, as in revocations and usage.py, against deadlocks.
    keys = APIKey.objects.select_for_update(no_key=True).order_by("pk").in_bulk(ids)
    networks = {customer_network(use.client_ip) for use in batch}
    of_keys = KeyNetwork.objects.filter(key__in=ids)
    known = set(of_keys.filter(network__in=networks).values_list("key_id", "network"))
    has_networks = set(of_keys.values_list("key_id", flat=True).distinct())
    rows: dict[tuple[UUID, str], KeyNetwork] = {}
    for use in batch:
        key = keys.get(use.key_id)
        if key is None:
            # Deleted with its account.
            continue
        if use.refusal:
            _record(Action.KEY_REFUSED, key, use, {"code": use.refusal})
            continue
        network = customer_network(use.client_ip)
        row = rows.setdefault((key.pk, network), _new_row(key, network, use))
        row.last_used_at = max(row.last_used_at or use.at, use.at)
        if (key.pk, network) not in known:
            first = {} if key.pk in has_networks else {"first": "yes"}
            known.add((key.pk, network))
            has_networks.add(key.pk)
            _record(Action.KEY_NEW_NETWORK, key, use, {"network": network, **first})
    KeyNetwork.objects.bulk_create(
        rows.values(),
        update_conflicts=True,
        unique_fields=["key", "network"],
        update_fields=["last_used_at"],
    )


def _new_row(key: APIKey, network: str, use: KeyUse) -> KeyNetwork:
    return KeyNetwork(key_id=key.pk, network=network, first_used_at=use.at, last_used_at=use.at)


def _record(action: Action, key: APIKey, use: KeyUse, detail: Mapping[str, str]) -> None:
    by = Actor(via=Via.API, client_ip=use.client_ip)
    record(action, account_id=key.owner_id, key=key, by=by, detail=detail, at=use.at)


_events = UseEvents()
os.register_at_fork(after_in_child=_events.reset)

# Of this process.
used = _events.used
refused = _events.refused
service = _events.service
flush = _events.flush
reset = _events.reset
