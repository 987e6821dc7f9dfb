"""Calls of one vendor's server that go on while its other studies are looked at."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Calls(Generic[_T]):
    """Calls that are under way, each in a thread of its own, by the number of their row."""

    def __init__(self, most: int, name: str) -> None:
        """Prepare for ``most`` calls at the same time; ``name``: of their threads."""
        self._threads = ThreadPoolExecutor(most, name)
        self._under_way: dict[int, Future[_T]] = {}

    def result(self, number: int, call: Callable[[], _T]) -> _T | None:
        """Begin the call of a row, or return its result; None while it goes on. Raises what it raises."""
        begun = self._under_way.get(number)
        if begun is None:
            for ended in [other for other, call in self._under_way.items() if call.done()]:
                del self._under_way[ended]  # of rows that were dropped
            self._under_way[number] = self._threads.submit(call)
            return None
        if not begun.done():
            return None
        del self._under_way[number]
        return begun.result()
