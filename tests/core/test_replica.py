"""Routing of reads to the replica: which, where, and never anything else."""

import time

import pytest
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse

from accounts.models import User
from apikeys.models import APIKey, DailyUse
from audit.models import Event
from core import replica
from core.admin_mixins import LargeTableAdmin
from core.replica import ALIAS, ReplicaRouter

router = ReplicaRouter()


def read_from_replica() -> APIKey:
    key = APIKey(name="studio")
    key._state.db = ALIAS
    return key


def test_nothing_is_read_from_the_replica_outside_views_that_may_lag() -> None:
    assert [router.db_for_read(model) for model in (APIKey, DailyUse, Event, User)] == [None] * 4


def test_in_such_a_view_only_the_listed_models_are_read_from_it(monkeypatch) -> None:
    monkeypatch.setattr(replica, "_may_read_replica", lambda request: True)

    @replica.may_lag
    def view(request: HttpRequest) -> HttpResponse:
        chosen = [router.db_for_read(model) for model in (APIKey, DailyUse, Event, User)]
        assert chosen == [ALIAS, ALIAS, ALIAS, None]
        assert router.db_for_write(APIKey) is None
        return HttpResponse()

    assert view(HttpRequest()).status_code == 200
    assert router.db_for_read(APIKey) is None


def test_a_row_of_the_replica_is_changed_and_read_again_on_the_primary() -> None:
    key = read_from_replica()
    assert router.db_for_write(APIKey, instance=key) == "default"
    assert router.db_for_read(APIKey, instance=key) == "default"
    assert router.allow_relation(key, User())


def test_migrations_leave_the_replica_alone() -> None:
    assert router.allow_migrate(ALIAS, "apikeys") is False
    assert router.allow_migrate("default", "apikeys") is None


def test_without_a_replica_views_run_as_they_are(rf) -> None:
    request = rf.get("/usage/")

    @replica.may_lag
    def view(request: HttpRequest) -> HttpResponse:
        assert router.db_for_read(APIKey) is None
        return HttpResponse()

    # Not even the session is asked for, which this request lacks.
    assert view(request).status_code == 200


@pytest.fixture
def recent(monkeypatch) -> replica.ReplicaState:
    """The state of a replica that has everything."""
    monkeypatch.setitem(settings.DATABASES, ALIAS, {})
    state = replica.ReplicaState()
    state._recent_at = time.monotonic() + 3600
    monkeypatch.setattr(replica, "state", state)
    return state


def request_of(method: str, **session: object) -> HttpRequest:
    request = HttpRequest()
    request.method = method
    request.session = session  # type: ignore[assignment]
    return request


def test_a_request_that_changes_something_reads_the_primary(recent) -> None:
    for method in ("GET", "HEAD", "OPTIONS"):
        assert replica._may_read_replica(request_of(method))
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert not replica._may_read_replica(request_of(method))


def test_who_changed_something_just_now_reads_the_primary(recent) -> None:
    within = settings.REPLICA_MAX_LAG + 3
    for ago, may_lag in ((0, False), (within - 0.5, False), (within + 0.5, True)):
        request = request_of("GET", wrote_at=time.time() - ago)
        assert replica._may_read_replica(request) is may_lag


def test_a_replica_that_failed_is_left_alone(recent) -> None:
    recent.record_failure("gone")
    assert not replica._may_read_replica(request_of("GET"))


def test_a_change_is_remembered_for_those_who_are_logged_in() -> None:
    middleware = replica.remember_writes(lambda request: HttpResponse())
    for method, session, has_written in (
        ("POST", {SESSION_KEY: "1"}, True),
        ("DELETE", {SESSION_KEY: "1"}, True),
        ("POST", {}, False),
        ("GET", {SESSION_KEY: "1"}, False),
    ):
        request = request_of(method, **session)
        middleware(request)
        assert ("wrote_at" in request.session) is has_written
        assert not has_written or abs(request.session["wrote_at"] - time.time()) < 2


def test_lists_of_the_staff_pages_may_lag(staff, monkeypatch) -> None:
    reading = []
    get_queryset = LargeTableAdmin.get_queryset

    def noted(self, request):
        reading.append(replica._is_reading.get())
        return get_queryset(self, request)

    monkeypatch.setattr(LargeTableAdmin, "get_queryset", noted)
    monkeypatch.setattr(replica, "_may_read_replica", lambda request: request.method == "GET")
    for name in ("admin:audit_event_changelist", "admin:apikeys_apikey_changelist"):
        assert staff.get(reverse(name)).status_code == 200
    assert reading
    assert all(reading)


def test_a_view_runs_again_with_the_primary_if_the_replica_fails(rf, monkeypatch, caplog) -> None:
    monkeypatch.setattr(replica, "_may_read_replica", lambda request: True)
    monkeypatch.setattr(replica, "state", state := replica.ReplicaState())
    runs = []

    @replica.may_lag
    def view(request: HttpRequest) -> HttpResponse:
        runs.append(chosen := router.db_for_read(APIKey))
        if chosen == ALIAS:
            raise OperationalError("conflict with recovery")
        return HttpResponse()

    for _ in range(2):
        assert view(rf.get("/usage/")).status_code == 200
    assert runs == [ALIAS, None] * 2
    # Once, and not again until the replica was used in between.
    assert caplog.text.count("The replica is not used") == 1
    # It is left alone for a while.
    assert not state.is_recent()


def test_a_row_that_the_replica_lacks_is_looked_for_on_the_primary(rf, monkeypatch, caplog) -> None:
    monkeypatch.setattr(replica, "_may_read_replica", lambda request: True)

    @replica.may_lag
    def view(request: HttpRequest) -> HttpResponse:
        if router.db_for_read(APIKey) == ALIAS:
            raise Http404
        return HttpResponse()

    assert view(rf.get("/usage/")).status_code == 200
    assert caplog.text == ""


def test_what_neither_of_them_has_is_not_found(rf, monkeypatch) -> None:
    monkeypatch.setattr(replica, "_may_read_replica", lambda request: True)

    @replica.may_lag
    def view(request: HttpRequest) -> HttpResponse:
        raise Http404

    with pytest.raises(Http404):
        view(rf.get("/usage/"))
    assert router.db_for_read(APIKey) is None
