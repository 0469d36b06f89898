"""What is raised where no verdict could be had. None of it says that a key is good or bad."""

from typing import Final

DEFAULT_RETRY_AFTER: Final = 5.0


class NoVerdict(Exception):  # noqa: N818 (it says what happened)
    """Whether the key is good is not known. Answer 503, never 200 and never 401.

    retry_after: seconds after which asking again may help.
    """

    def __init__(self, message: str, *, retry_after: float = DEFAULT_RETRY_AFTER) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def again(self) -> "NoVerdict":
        """The same, to be raised somewhere else: an exception collects where it was raised."""
        return type(self)(str(self), retry_after=self.retry_after)


class Unavailable(NoVerdict):
    """The platform can't say just now, or can't be reached, or what answers is no platform."""


class NotAllowed(NoVerdict):
    """The platform doesn't let this service ask: its secret is missing, wrong or turned off."""
