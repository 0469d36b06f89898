"""Exceptions that several apps raise and handle. No Django, so that hashing can import it."""


class Busy(Exception):  # noqa: N818 (an expected outcome, not an error)
    """A bounded resource was not free within the caller's time limit."""


class HashingBusy(Busy):
    """Too many Argon2 passes are waiting."""


class BodiesBusy(Busy):
    """Too many request bodies are being read."""


class StorageUnavailable(Busy):
    """The storage of files can't be written or read now."""


class RateLimited(Exception):  # noqa: N818 (as above)
    """A rate limit was exceeded. retry_after: seconds until the next attempt may pass."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Rate limited for another {retry_after} s.")
        self.retry_after = retry_after
