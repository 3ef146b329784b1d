"""Clients that share upstreams get, message for message, what a private connection to PostgreSQL gives each of them.

Hypothesis writes plays (tests/model/themes.py): what two to eight clients say, and in which order they go on. Each is
played twice (tests/model/stage.py), alone on private connections and through SideCart over one to three upstreams, and
every answer is compared. After each play every upstream is asked what it still holds: nothing, is the only right
answer. A failure shows the play, shrunk, in words, and the first message that differs.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests import servers
from tests.model.conftest import StageOf
from tests.model.scripts import SYNC, Message, Play, Script, batch, bind, describe, execute, parse, query, say
from tests.model.stage import Stage, stages
from tests.model.themes import THEMES, plays

# A play that failed and could not be made short in time is shown all the same.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


# A play that failed and could not be made short in time is shown all the same.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


def play_all(theme: str, examples: int, stage: Stage, *, random: bool) -> None:
    """Play so many plays on a theme; where not `random`, the same ones each time."""

    @settings(
        max_examples=examples,
        derandomize=not random,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        phases=(Phase.generate, Phase.shrink),
    )
    @given(plays(theme))
    def check(play: Play) -> None:
        stage.assert_faithful(play)

    check()


def group(*texts: str) -> list[Message]:
    """Run texts without parameters through the extended protocol, in one group."""
    parts = [(parse("", text), bind("", ""), describe("P", ""), execute()) for text in texts]
    return [*(message for part in parts for message in part), SYNC]


USE = [bind("", ""), execute(), SYNC]
NOBODY = Script((), (batch([SYNC]),))
FOUND = {
    "settings that a DISCARD ALL and SET LOCAL have reset, in a group that fails": Play(
        (
            Script((), (say("SET datestyle TO german"),)),
            Script(
                (("DateStyle", "German"),),
                (
                    batch([SYNC], group("DISCARD ALL", "SET LOCAL datestyle TO DEFAULT", "SELECT 1/0")),
                    say("SET datestyle TO mdy"),
                ),
            ),
        )
    ),
    "settings behind a DISCARD ALL, in a group that fails with another one behind it": Play(
        (
            NOBODY,
            Script((("DateStyle", "German"),), (batch(group("DISCARD ALL", "EXECUTE p"), group("SHOW datestyle")),)),
        )
    ),
    "the unnamed statement of a pinned client, behind a group that fails": Play(
        (
            NOBODY,
            Script(
                (),
                (
                    batch(group("PREPARE p AS SELECT 42")),
                    batch([bind("pt", "s1"), execute("pt", 2), *USE], USE),
                ),
            ),
        )
    ),
    "a name that SQL has named, named again in a group that is ignored": Play(
        (
            NOBODY,
            Script(
                (),
                (
                    batch([parse("s1", "SELECT 1"), bind("", "s1"), execute(), SYNC]),
                    batch(
                        [query("PREPARE s1 AS SELECT 'prepared with SQL'")],
                        [parse("", "SELECT 1"), parse("s1", "SELECT 1"), *group("EXECUTE s1(4)")],
                    ),
                    say("EXECUTE s1"),
                ),
            ),
        )
    ),
    "a relation that is not there, in a transaction that has failed": Play(
        (
            NOBODY,
            Script(
                (),
                (
                    batch([query("BEGIN"), *group("SELECT 1/0")], [query("TABLE nope")], group("TABLE nope")),
                    say("ROLLBACK; BEGIN"),
                    batch([*group("SELECT 1/0"), query("TABLE nope")]),
                ),
            ),
        )
    ),
    "a name that SQL drops twice in a group": Play(
        (
            NOBODY,
            Script(
                (),
                (
                    batch([parse("s1", "SELECT 1"), SYNC]),
                    batch(
                        [parse("", "DEALLOCATE s1"), *USE[:2], parse("s1", "SELECT 1"), bind("", "s1"), execute(), *USE]
                    ),
                ),
            ),
        )
    ),
}
"""Plays that hypothesis has found, each a mistake that is mended."""


@pytest.mark.parametrize("upstreams", (1, 2))
@pytest.mark.parametrize("play", FOUND.values(), ids=FOUND)
def test_what_was_found_once(play: Play, upstreams: int, stage_of: StageOf) -> None:
    stage_of(upstreams).assert_faithful(play)


@pytest.mark.parametrize("upstreams", (1, 2, 3))
@pytest.mark.parametrize("theme", THEMES)
def test_no_client_notices_the_others(theme: str, upstreams: int, stage_of: StageOf) -> None:
    """The same few hundred plays at every run."""
    play_all(theme, 12, stage_of(upstreams), random=False)


@pytest.mark.deep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("upstreams", (1, 2, 3))
@pytest.mark.parametrize("theme", THEMES)
def test_no_client_notices_the_others_for_long(theme: str, upstreams: int, stage_of: StageOf) -> None:
    """Ten thousand plays and more, others at every run."""
    play_all(theme, {1: 200, 2: 800, 3: 400}[upstreams], stage_of(upstreams), random=True)


@pytest.mark.deep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("major", servers.MAJORS)
def test_every_version_of_postgresql(major: int) -> None:
    """ParameterStatus comes earlier on 13, and 18 reports search_path."""
    with servers.running(major, auth="trust", plaintext=True) as server, stages(server) as stage_of:
        play_all("everything", 200, stage_of(2), random=True)
