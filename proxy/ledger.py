"""The ledger: what a client's session *is*, apart from any upstream.

It knows the settings that the client asked for at start-up, what a statement has left behind and
why that pins the client to its upstream, and what has to be sent to another upstream to make it this client's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from proxy.snapshot import Restore, Settings
from proxy.verdict import Effect

CUSTOM_SETTING: Final = "custom_setting"
PREPARED_STATEMENT: Final = "prepared_statement"

# What of the effects stays on the upstream. RESET, DEALLOCATE and DISCARD only take state away.
_PINS: Final[Mapping[Effect, str]] = {
    Effect.SETTING: "setting",
    Effect.PREPARE: PREPARED_STATEMENT,
    Effect.HOLD_CURSOR: "hold_cursor",
    Effect.LISTEN: "listen",
    Effect.ADVISORY_LOCK: "advisory_lock",
    Effect.SESSION_STATE: "session_state",
}


class Ledger:
    """Keep one client's session state."""

    __slots__ = ("lost", "pins", "scarred", "startup")

    def __init__(self, startup: Settings) -> None:
        self.startup = startup
        """What the client sent in its StartupMessage: what RESET and DISCARD ALL return to."""
        self.pins: dict[str, str] = {}
        """Why this client keeps its upstream: reason -> the name that caused it."""
        self.scarred = False
        """The upstream holds state that nothing can clear: it is closed, not cleaned."""
        self.lost: dict[str, Restore] = {}
        """Start-up settings that a RESET may have undone on the upstream, to be set again before anything else runs."""
        if startup.custom:
            self.pin(CUSTOM_SETTING, next(name for name, _ in startup.items if "." in name))
            self.scarred = True

    def pin(self, reason: str, name: str) -> bool:
        """Note a reason to keep the upstream; return whether it is a new one."""
        if reason in self.pins:
            return False
        self.pins[reason] = name
        return True

    def apply(self, effects: Iterable[tuple[Effect, str]]) -> list[str]:
        """Note what a statement that goes upstream now leaves behind; return the new reasons to pin."""
        reasons = []
        for effect, name in effects:
            if (effect is Effect.RESET and name == "all") or effect is Effect.DISCARD_ALL:
                self.lost = {name: (value, False) for name, value in self.startup.items}
            elif effect in (Effect.RESET, Effect.RESET_LOCAL):
                value = self.startup.get(name)
                if value is not None:
                    self.lost[name] = (value, effect is Effect.RESET_LOCAL)
            elif (reason := _PINS.get(effect)) is not None:
                if effect is Effect.SESSION_STATE or (effect is Effect.SETTING and "." in name):
                    self.scarred = True
                if self.pin(reason, name):
                    reasons.append(reason)
        return reasons
