"""Refreshes of cached data are spread and never later than the maximum age."""

import pytest

from apikeys.cache.ages import lifetime


@pytest.mark.parametrize("max_age", [0.5, 60.0, 3600.0])
def test_every_lifetime_ends_at_the_maximum_and_is_refreshed_in_its_last_quarter(max_age):
    lives = [lifetime(1000.0, max_age) for _ in range(2000)]
    assert {one.expires_at for one in lives} == {1000.0 + max_age}
    parts = [(one.refresh_at - 1000.0) / max_age for one in lives]
    assert 0.75 <= min(parts) < 0.77
    assert 0.98 < max(parts) <= 1


def test_refreshes_of_what_was_read_together_are_spread_evenly():
    parts = [(lifetime(0.0, 60.0).refresh_at - 45.0) / 15.0 for _ in range(10_000)]
    tenths = [sum(int(part * 10) == tenth for part in parts) for tenth in range(10)]
    assert all(800 < count < 1200 for count in tenths)


def test_with_no_age_nothing_is_used_again():
    assert lifetime(1000.0, 0.0) == (1000.0, 1000.0)
