"""Tasks with a name, and a reference for as long as they run; and work that several wait for, done once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Tasks:
    """Create tasks that have a name and a reference for as long as they run."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def stop(self) -> None:
        """Cancel what still runs, and wait for it."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


class Shared(Generic[T]):
    """Do a work for whoever asks while it is under way: once, for all of them.

    Whoever gives up waiting does not stop it for the others.
    """

    def __init__(self, tasks: Tasks, work: Callable[[], Awaitable[T]], name: str) -> None:
        self._tasks = tasks
        self._work = work
        self._name = name
        self._outcome: asyncio.Future[T] | None = None

    @property
    def under_way(self) -> bool:
        return self._outcome is not None

    async def __call__(self) -> T:
        """Return the outcome of the work that is under way, or of a new one. Raises what it raises."""
        outcome = self._outcome
        if outcome is None:
            outcome = self._outcome = asyncio.get_running_loop().create_future()
            self._tasks.start(self._run(outcome), self._name)
        return await asyncio.shield(outcome)

    async def _run(self, outcome: asyncio.Future[T]) -> None:
        try:
            result = await self._work()
        except Exception as error:
            outcome.set_exception(error)
            outcome.exception()  # all who waited may have gone
        except BaseException:
            outcome.cancel()
            raise
        else:
            outcome.set_result(result)
        finally:
            self._outcome = None
