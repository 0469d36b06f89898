"""Routing of reads to the replica: which, where, and never anything else."""

from django.http import HttpRequest, HttpResponse

from accounts.models import User
from apikeys.models import APIKey, DailyUse
from audit.models import Event
from core import replica
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
