"""The pieces of a deployment, and the order in which they are looked at: a result for each, whatever happens."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from proxy.databases import diagnosis
from proxy.databases.diagnosis import Advice
from proxy.errors import ConfigError

CONFIGURATION: Final = "configuration"
SECRET: Final = "secret"  # noqa: S105 (a piece's name)
IAM_TOKEN: Final = "iam-token"  # noqa: S105
DNS: Final = "dns"
ROUTE: Final = "route"
TLS: Final = "tls"
LOGIN: Final = "login"
POOLER: Final = "pooler"
VERSION: Final = "version"
ROLE: Final = "role"
SIDECART: Final = "sidecart"
METRICS: Final = "metrics"

NOT_DEPLOYED: Final = "not deployed yet"


class State(enum.Enum):
    """How a piece is. The values are the words that are shown."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"
    """It could not be looked at, or there is nothing to look at: the text says why."""


@dataclass(frozen=True, slots=True)
class Result:
    """What is to be said of one piece: a sentence, and of a failed one the fix."""

    piece: str
    state: State
    says: str
    fix: str = ""
    notes: tuple[str, ...] = ()
    database: str = field(default="", kw_only=True)
    """The name that clients ask for; empty for what belongs to all databases."""


class TroubleError(Exception):
    """A piece has failed, and why is known."""

    def __init__(self, advice: Advice) -> None:
        super().__init__(advice.means)
        self.advice = advice


class SkippedError(Exception):
    """A piece is not to be looked at; the text says why."""


class Fine(NamedTuple):
    """A piece is as it should be."""

    says: str
    notes: Iterable[str] = ()


class Step(NamedTuple):
    """A way to look at one piece, and the pieces that have to be right for it."""

    piece: str
    needs: tuple[str, ...]
    look: Callable[[], Awaitable[Fine]]
    """Raises TroubleError, SkippedError, ConfigError."""


async def go_through(
    steps: Iterable[Step],
    show: Callable[[Result], None],
    failed: dict[str, str],
    *,
    seconds: float,
    database: str = "",
) -> None:
    """Take the steps in their order and show the result of each; none raises, and none takes longer than `seconds`.

    `failed` holds for a piece the one that failed, itself or one before it; it is read and added to.
    """
    for step in steps:
        cause = next((failed[need] for need in step.needs if need in failed), "")
        if cause:
            result = Result(step.piece, State.SKIPPED, f"{cause} failed", database=database)
            failed[step.piece] = cause
        else:
            result = await _look(step, seconds, database)
            if result.state is State.FAILED:
                failed[step.piece] = step.piece
        show(result)


async def _look(step: Step, seconds: float, database: str) -> Result:
    try:
        async with asyncio.timeout(seconds):
            fine = await step.look()
        return Result(step.piece, State.OK, fine.says, notes=tuple(fine.notes), database=database)
    except SkippedError as skipped:
        return Result(step.piece, State.SKIPPED, str(skipped), database=database)
    except TroubleError as trouble:
        advice = trouble.advice
    except ConfigError as error:
        advice = diagnosis.configuration(str(error))
    except TimeoutError:
        advice = diagnosis.endless(seconds)
    except Exception as error:
        # Its text may hold anything: a password, a line of a file.
        advice = diagnosis.unexpected(type(error).__name__)
    return Result(step.piece, State.FAILED, advice.means, advice.fix, database=database)
