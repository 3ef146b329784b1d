"""The ledger: what a client's session *is*, apart from any upstream.

It knows the settings that the client asked for at start-up, what a statement has left behind and
why that pins the client to its upstream, and what has to be sent to another upstream to make it this client's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from proxy.snapshot import Restore, Settings
from proxy.verdict import Effect

CUSTOM_SETTING: Final = "custom_setting"
PREPARED_STATEMENT: Final = "prepared_statement"

SETTING: Final = "setting"

# What of the effects stays on the upstream. RESET, DEALLOCATE and DISCARD only take state away.
_PINS: Final[Mapping[Effect, str]] = {
    Effect.SETTING: SETTING,
    Effect.PREPARE: PREPARED_STATEMENT,
    Effect.HOLD_CURSOR: "hold_cursor",
    Effect.LISTEN: "listen",
    Effect.ADVISORY_LOCK: "advisory_lock",
    Effect.SESSION_STATE: "session_state",
}


_LOOSEN: Final = frozenset({Effect.DEALLOCATE, Effect.DISCARD_ALL, Effect.RESET, Effect.CLOSE, Effect.UNLISTEN})
_ASKED: Final = frozenset({PREPARED_STATEMENT, "hold_cursor", "listen", "advisory_lock"})
"""Pins of which the server can say whether there is a reason for them: see snapshot.read_back."""
_STAY_BEHIND: Final = {
    # Our own statements would run under them, those of the next client's lease included.
    "statement_timeout": re.compile(r"0|\d+(s|min|h|d)"),
    "transaction_timeout": re.compile("0"),
    "default_transaction_deferrable": re.compile("off"),
    # They would end an upstream that is idle, or a transaction that is not this client's.
    "idle_session_timeout": re.compile("0"),
    "idle_in_transaction_session_timeout": re.compile(r"0|\d+(s|min|h|d)"),
}
"""Settings that are carried to other upstreams only with these values; with others they pin."""


class Ledger:
    """Keep one client's session state."""

    __slots__ = (
        "asked",
        "asked_state",
        "loosened",
        "lost",
        "pins",
        "renewed",
        "scarred",
        "settings",
        "startup",
        "touched",
    )

    def __init__(self, startup: Settings) -> None:
        self.startup = startup
        """What the client sent in its StartupMessage: what RESET and DISCARD ALL return to."""
        self.settings = startup
        """What the session's settings are, as of the last time they were read back."""
        self.asked: frozenset[str] = frozenset()
        """Settings that are being read back at the moment."""
        self.asked_state = False
        """Whether the server is being asked at the moment what else the session holds."""
        self.touched: set[str] = set()
        """Settings that may have changed since: to be read back before another client gets the upstream."""
        self.pins: dict[str, str] = {}
        """Why this client keeps its upstream: reason -> the name that caused it."""
        self.loosened = False
        """A pin may have ended: the server is to be asked whether it holds anything yet."""
        self.renewed: set[str] = set()
        """Reasons that came up again after the server was asked: what it says of them is too old."""
        self.scarred = False
        """The upstream holds state that nothing can clear: it is closed, not cleaned."""
        self.lost: dict[str, Restore] = {}
        """Start-up settings that a RESET may have undone on the upstream, to be set again before anything else runs."""
        if startup.customs:
            self.pin(CUSTOM_SETTING, min(startup.customs))
            self.scarred = True

    def pin(self, reason: str, name: str) -> bool:
        """Note a reason to keep the upstream; return whether it is a new one."""
        self.renewed.add(reason)
        if reason in self.pins:
            return False
        self.pins[reason] = name
        return True

    def apply(self, effects: Iterable[tuple[Effect, str]]) -> list[str]:
        """Note what a statement that goes upstream now leaves behind; return the new reasons to pin."""
        reasons = []
        for effect, name in effects:
            if effect in _LOOSEN:
                self.loosened = bool(self.pins)
            if (effect is Effect.RESET and name == "all") or effect is Effect.DISCARD_ALL:
                self.lost = {name: (value, False) for name, value in self.startup.items}
                self.touched |= self.asked.union(name for name, _ in self.settings.items)
            elif effect in (Effect.RESET, Effect.RESET_LOCAL):
                value = self.startup.get(name)
                if effect is Effect.RESET and "." not in name:
                    self.touched.add(name)
                if value is not None:
                    self.lost[name] = (value, effect is Effect.RESET_LOCAL)
            elif effect is Effect.SETTING and "." not in name:
                self.touched.add(name)
            elif (reason := _PINS.get(effect)) is not None:
                if effect is Effect.SESSION_STATE or (effect is Effect.SETTING and "." in name):
                    self.scarred = True
                if self.pin(reason, name):
                    reasons.append(reason)
        return reasons

    def ask(self) -> frozenset[str]:
        """Begin to read back what was touched, and return the names; what comes up from now on is for the next time."""
        self.asked = frozenset(self.touched)
        self.touched.clear()
        self.asked_state, self.loosened = self.loosened, False
        self.renewed.clear()
        return self.asked

    def read_back(self, found: Mapping[str, str]) -> bool:
        """Take over what the upstream says of the settings that were asked for; those not found are not set.

        Return whether the session's settings can be carried to another upstream; else a pin is due.
        """
        kept = {name: value for name, value in self.settings.items if name not in self.asked}
        self.settings = Settings.of((kept | dict(found)).items())
        self.asked = frozenset()
        carried = all(
            name not in _STAY_BEHIND or _STAY_BEHIND[name].fullmatch(value) for name, value in self.settings.items
        )
        if carried and not self.scarred:
            self.pins.pop(SETTING, None)
        return carried

    def not_read_back(self) -> None:
        """Keep in mind what could not be read back."""
        self.touched |= self.asked
        self.asked = frozenset()
        self.asked_state = self.loosened = False

    def unpin(self, held: Collection[str]) -> None:
        """End the pins whose state is gone; `held` are the reasons that the upstream has found to hold."""
        self.asked_state = False
        for reason in _ASKED - self.renewed - set(held):
            self.pins.pop(reason, None)
