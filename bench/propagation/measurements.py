"""The three measurements: the other host's version table, its responses, and a cut network."""

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event
from typing import Any

import psycopg

from apikeys.cache.versions import bucket_of, is_stable
from bench.propagation.hosts import (
    POLL_INTERVAL,
    TIMEOUT,
    Client,
    Host,
    one_client_per_worker,
    wait_until_ready,
)
from bench.rows import VALIDATE
from bench.seed import Key
from bench.server_pool import log_progress
from tests.proxy import Proxy

# The default of INVALIDATION_LEASE_SECONDS.
LEASE_SECONDS = 2.0


def watch_table(a: Host, b: Host, owner: Key, keys: list[tuple[str, str]]) -> dict[str, Any]:
    """Measure until B's table marks a key deleted at A: B uses no cached response for it.

    keys: id and public id of each key, all of the owner of `owner`.
    """
    since_request, since_commit, since_response = [], [], []
    with closing(Client(a)) as client, ThreadPoolExecutor(1) as pool:
        for number, (key_id, public_id) in enumerate(keys):
            bucket = bucket_of(public_id)
            before = a.table.version(bucket), b.table.version(bucket)
            watching = pool.submit(_watch_bucket, a, b, bucket, before)
            requested_at, answered_at = client.delete(key_id, owner)
            committed_at, noticed_at = watching.result()
            since_request.append(noticed_at - requested_at)
            since_commit.append(noticed_at - committed_at)
            since_response.append(noticed_at - answered_at)
            if number and number % 1000 == 0:
                log_progress(f"{number} of {len(keys)}")
    return {
        "from_request": _spread(since_request),
        "from_commit": _spread(since_commit),
        "from_answer": _spread(since_response),
    }


def _watch_bucket(a: Host, b: Host, bucket: int, before: tuple[int, int]) -> tuple[float, float]:
    """Return when A's table shows the commit, and when B's table shows the change.

    before: the versions of the bucket at A and B before the change.
    """
    committed_at = noticed_at = 0.0
    deadline = time.monotonic() + TIMEOUT
    while not (committed_at and noticed_at):
        version_a, version_b = a.table.version(bucket), b.table.version(bucket)
        now = time.monotonic()
        if not committed_at and version_a != before[0] and is_stable(version_a):
            committed_at = now
        if not noticed_at and version_b != before[1]:
            noticed_at = now
        if now > deadline:
            raise RuntimeError("B was never notified.")
        time.sleep(POLL_INTERVAL)
    return committed_at, noticed_at


def poll_workers(a: Host, b: Host, url: str, keys: list[Key]) -> dict[str, Any]:
    """Measure until each worker of B answers 401 for a key deleted at A."""
    ids = _ids(url)
    since_request, since_response = [], []
    with (
        closing(Client(a)) as deleter,
        one_client_per_worker(b) as clients,
        ThreadPoolExecutor(len(clients)) as pool,
    ):
        for key in keys:
            accepted = [Event() for _ in clients]
            polling = [
                pool.submit(_poll_until_refused, client, key, event)
                for client, event in zip(clients, accepted, strict=True)
            ]
            for event in accepted:
                event.wait(TIMEOUT)
            requested_at, answered_at = deleter.delete(ids[key.public_id], key)
            refused_at = max(future.result() for future in polling)
            since_request.append(refused_at - requested_at)
            since_response.append(refused_at - answered_at)
    return {"from_request": _spread(since_request), "from_answer": _spread(since_response)}


def _poll_until_refused(client: Client, key: Key, accepted: Event) -> float:
    """Return when the worker refuses `key`. Set `accepted` when it has accepted it before."""
    while (status := client.send_key("POST", VALIDATE, key)) == 200:
        accepted.set()
        time.sleep(POLL_INTERVAL)
    if status != 401:
        raise RuntimeError(f"B answered with {status}.")
    return time.monotonic()


def cut_network(a: Host, c: Host, network: Proxy, url: str, keys: list[Key]) -> dict[str, Any]:
    """Measure from a cut between C and the database until C's last 200, for keys deleted at A.

    began: when that request was sent; came: when its response arrived.
    """
    ids = _ids(url)
    began, came = [], []
    for number, key in enumerate(keys):
        # At different times between two heartbeats.
        wait = 1 + number / len(keys) * LEASE_SECONDS / 4
        cut_at, accepted = _cut_once(a, c, network, ids[key.public_id], key, wait=wait)
        began.append(max((start for start, _end in accepted), default=cut_at) - cut_at)
        came.append(max((end for _start, end in accepted), default=cut_at) - cut_at)
        log_progress(f"cut {number + 1}/{len(keys)}  {came[-1]:.3f} s")
        wait_until_ready(c)
    return {
        "bound_s": LEASE_SECONDS,
        "rounds": len(keys),
        "last_yes_began_max_s": round(max(began), 4),
        "last_yes_came_max_s": round(max(came), 4),
        "last_yes_came_s": [round(seconds, 4) for seconds in came],
        "within_bound": max(began) <= LEASE_SECONDS,
    }


def _cut_once(
    a: Host, c: Host, network: Proxy, key_id: str, key: Key, *, wait: float
) -> tuple[float, list[tuple[float, float]]]:
    """Cut the network after `wait` seconds and delete the key at A.

    Returns the time of the cut, and begin and end of each request that C accepted during the cut.
    """
    stop = Event()
    with (
        closing(Client(a)) as deleter,
        one_client_per_worker(c) as clients,
        ThreadPoolExecutor(len(clients) + 1) as pool,
    ):
        polling = [pool.submit(_poll, client, key, stop) for client in clients]
        time.sleep(wait)
        network.swallow()
        cut_at = time.monotonic()
        deleting = pool.submit(deleter.delete_with_retries, key_id, key)
        time.sleep(cut_at + LEASE_SECONDS + 1 - time.monotonic())
        stop.set()
        # From now on, responses come from the database.
        healed_at = time.monotonic()
        network.heal()
        deleting.result()
        accepted = [span for future in polling for span in future.result()]
    return cut_at, [(start, end) for start, end in accepted if cut_at < end < healed_at]


def _poll(client: Client, key: Key, stop: Event) -> list[tuple[float, float]]:
    """Validate `key` until `stop`. Return begin and end of each request that was accepted."""
    accepted = []
    while not stop.is_set():
        start = time.monotonic()
        if client.send_key("POST", VALIDATE, key) == 200:
            accepted.append((start, time.monotonic()))
        time.sleep(0.001)
    return accepted


def _ids(url: str) -> dict[str, str]:
    """Return the ids of all keys by public id."""
    with psycopg.connect(url) as connection:
        return dict(connection.execute("SELECT public_id, id::text FROM apikeys_apikey"))


def _spread(seconds: Iterable[float]) -> dict[str, Any]:
    milliseconds = sorted(1000 * each for each in seconds)

    def quantile(part: float) -> float:
        return round(milliseconds[min(int(part * len(milliseconds)), len(milliseconds) - 1)], 3)

    return {
        "number": len(milliseconds),
        "min_ms": quantile(0),
        "p50_ms": quantile(0.5),
        "p99_ms": quantile(0.99),
        "max_ms": quantile(1),
    }
