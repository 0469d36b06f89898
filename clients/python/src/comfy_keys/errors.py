"""Exceptions for validations without a verdict. None says that a key is valid or invalid."""

from typing import Final

DEFAULT_RETRY_AFTER: Final = 5.0


class NoVerdict(Exception):  # noqa: N818 (a state, not an error of the caller)
    """The verdict is unknown. Respond with 503, never with 200 or 401.

    retry_after: seconds after which another attempt may succeed.
    """

    def __init__(self, message: str, *, retry_after: float = DEFAULT_RETRY_AFTER) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def copy(self) -> "NoVerdict":
        """Return a copy to raise elsewhere: an exception collects its tracebacks."""
        return type(self)(str(self), retry_after=self.retry_after)


class Unavailable(NoVerdict):
    """The platform can't be reached or can't validate now, or the server is no platform."""


class NotAllowed(NoVerdict):
    """The platform refuses this service: its secret is missing, wrong or turned off."""
