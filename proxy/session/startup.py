"""What a client's StartupMessage asks for, judged; and the greeting that answers it, remembered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from proxy.errors import CHARACTER_NOT_IN_REPERTOIRE, LoginRefusedError
from proxy.filter import Filter
from proxy.pooling.pool import Pool
from proxy.pooling.snapshot import NO_SETTINGS, Settings
from proxy.sql.settings import split_options
from proxy.sql.verdict import Action

MAX_GREETINGS: Final = 1000
"""Snapshots whose ParameterStatus values a pool remembers; clients could invent more."""
OF_THE_SERVER: Final = frozenset({"in_hot_standby", "server_version", "server_encoding", "integer_datetimes"})
"""Reported parameters that no client's statement changes."""


def vet(parameters: Mapping[str, str], judge: Filter) -> Settings:
    """Judge every setting of a StartupMessage (user and database taken out), those in `options` included.

    Raises LoginRefusedError, with the sentence that the client gets.
    """
    pairs: list[tuple[str, str]] = []
    for name, value in parameters.items():
        # What is not UTF-8 was decoded to lone surrogates.
        if any("\udc80" <= character <= "\udcff" for character in name + value):
            raise LoginRefusedError(CHARACTER_NOT_IN_REPERTOIRE, "a startup parameter is not valid UTF-8")
        verdict = judge.judge_setting(name, value)
        if verdict.action is not Action.ALLOW:
            raise LoginRefusedError(verdict.sqlstate, verdict.message, detail=verdict.detail, hint=verdict.hint)
        if name == "options":
            # In front: a setting that is a parameter of its own beats one in options, as on the server.
            pairs[:0] = split_options(value) or []
        elif name != "replication":
            pairs.append((name, value))
    return Settings.of(pairs) if pairs else NO_SETTINGS


def known_greeting(pool: Pool, settings: Settings) -> dict[str, str] | None:
    """Return the ParameterStatus values for these settings, if some upstream has told them before."""
    name = settings.get("application_name")
    if name is None or not (name.isascii() and name.isprintable() and len(name) < 64):
        return pool.greetings.get(settings)
    # The name is reported as it was sent: all clients that differ only in it share one greeting.
    known = pool.greetings.get(_nameless(settings))
    return None if known is None else {**known, "application_name": name}


def remember_greeting(pool: Pool, settings: Settings, parameters: dict[str, str]) -> None:
    """Keep the ParameterStatus values that the server reported under these settings."""
    if len(pool.greetings) < MAX_GREETINGS:
        pool.greetings.setdefault(settings, parameters)
        pool.greetings.setdefault(_nameless(settings), {**parameters, "application_name": ""})


def _nameless(settings: Settings) -> Settings:
    return Settings.of(pair for pair in settings.items if pair[0] != "application_name")
