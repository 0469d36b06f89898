"""Slots for what occupies a thread for as long as a client likes, such as a transfer of a file."""

from collections import Counter
from threading import RLock

from core.exceptions import BodiesBusy


class Slots:
    """A number of slots of this process, of which one owner may hold a part at a time."""

    def __init__(self, number: int, *, of_one_owner: int) -> None:
        self._number = number
        self._of_one_owner = of_one_owner
        # Reentrant: a slot may be collected as garbage, and so given back, while it is held.
        self._lock = RLock()
        self._held: Counter[str] = Counter()

    def take(self, owner: str, message: str) -> "Slot":
        """Return a slot for `owner`. Raise BodiesBusy with `message` if none is free."""
        with self._lock:
            if self._held[owner] >= self._of_one_owner or self._held.total() >= self._number:
                raise BodiesBusy(message)
            self._held[owner] += 1
        return Slot(self, owner)

    def give_back(self, owner: str) -> None:
        with self._lock:
            self._held[owner] -= 1
            if not self._held[owner]:
                # Otherwise there would be an entry for each owner there ever was.
                del self._held[owner]


class Slot:
    """A slot that is taken, until `release` is called. Further calls do nothing."""

    def __init__(self, slots: Slots, owner: str) -> None:
        self._slots: Slots | None = slots
        self._owner = owner

    def release(self) -> None:
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.give_back(self._owner)

    def __del__(self) -> None:
        # A response is not closed if a middleware fails after its view.
        self.release()
