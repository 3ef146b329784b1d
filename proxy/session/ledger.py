"""The ledger: what a client's session *is*, apart from any upstream.

It knows the settings that the client asked for at start-up, what a statement has left behind and
why that pins the client to its upstream, and what has to be sent to another upstream to make it this client's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from proxy.pooling.snapshot import PARSING, Restore, Settings
from proxy.session.application_name import APPLICATION_NAME, Naming
from proxy.sql import tables
from proxy.sql.verdict import Effect

PREPARED_STATEMENT: Final = "prepared_statement"

SETTING: Final = "setting"
ENCODING: Final = "client_encoding"

# What of the effects stays on the upstream. RESET, DEALLOCATE and DISCARD only take state away.
_PINS: Final[Mapping[Effect, str]] = {
    Effect.PREPARE: PREPARED_STATEMENT,
    Effect.HOLD_CURSOR: "hold_cursor",
    Effect.SESSION_STATE: "session_state",
}


_LOOSEN: Final = frozenset({Effect.DEALLOCATE, Effect.DISCARD_ALL, Effect.RESET, Effect.CLOSE, Effect.UNLISTEN})
_SETS: Final = frozenset(
    {
        Effect.SETTING,
        Effect.SETTING_LOCAL,
        Effect.SETTING_INSIDE,
        Effect.RESET,
        Effect.RESET_LOCAL,
        Effect.DISCARD_ALL,
    }
)
_ASKED: Final = frozenset({PREPARED_STATEMENT, "hold_cursor"})
"""Pins of which the server can say whether there is a reason for them: see snapshot.read_back."""
STAY_BEHIND: Final = {
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
        "_found",
        "_unreadable",
        "as_asked",
        "asked",
        "asked_state",
        "at_rest",
        "loosened",
        "lost",
        "naming",
        "pins",
        "reading",
        "recodes",
        "renewed",
        "scarred",
        "settings",
        "startup",
        "touched",
        "unsure",
    )

    def __init__(self, startup: Settings, naming: Naming | None = None) -> None:
        self.naming = naming
        """The client's two names, where the server is to be shown another one than its own."""
        if naming is not None:
            startup = Settings.of((*startup.items, (APPLICATION_NAME, naming.shown)))
        self.startup = startup
        """What the client sent in its StartupMessage: what RESET and DISCARD ALL return to."""
        self.settings = startup
        """What the session's settings are, as of the last time they were read back."""
        self.at_rest = True
        """Nothing was noted since `rest` has found that nothing is kept: a release need not look."""
        self.unsure: set[str] = set()
        """Settings that shape a Parse and may be others now."""
        self.recodes = False
        """Whether client_encoding may be another one when what was sent is answered."""
        self.reading = False
        """Whether the server is being asked at the moment what the session holds."""
        self.asked: frozenset[str] = frozenset()
        """Settings that are being read back at the moment."""
        self.asked_state = False
        """Whether the server is being asked at the moment what else the session holds."""
        self._found: dict[str, str] = {}
        self._unreadable = False
        self.as_asked = True
        """Whether the upstream has the settings that were read back; else a start-up value has to be set again."""
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
        """Start-up settings that a RESET may have undone on the upstream."""

    @property
    def context(self) -> Settings | None:
        """Return the settings that shape a Parse which is sent now; None where only the server knows them."""
        return None if self.unsure else self.settings.parsing

    @property
    def roams(self) -> bool:
        """Whether the search_path may be another one now than `settings` say."""
        return "search_path" in self.unsure

    @property
    def may_be_asked(self) -> bool:
        """Whether the server is to be asked, at the end of a lease, what there is of settings or other state."""
        return bool(self.touched) or self.loosened

    @property
    def special(self) -> bool:
        """Whether a setting may differ from other clients' that is none of those which shape what a statement means."""
        return self.settings.others or bool(self.touched) or bool(self.asked)

    @property
    def tainted(self) -> bool:
        """Whether the upstream may hold a custom setting that nobody knows of: it would read '' and not NULL."""
        return any("." in name for name in (*self.touched, *self.asked))

    def pin(self, reason: str, name: str) -> bool:
        """Note a reason to keep the upstream; return whether it is a new one."""
        self.at_rest = False
        self.renewed.add(reason)
        if reason in self.pins:
            return False
        self.pins[reason] = name
        return True

    def apply(self, effects: Iterable[tuple[Effect, str]]) -> list[str]:
        """Note what a statement that runs now leaves behind; return the new reasons to pin."""
        reasons = []
        for effect, name in effects:
            self.at_rest = False
            if effect in _LOOSEN:
                self.loosened = bool(self.pins)
            if effect in _SETS:
                self._set(effect, name)
            elif (reason := _PINS.get(effect)) is not None:
                if effect is Effect.SESSION_STATE:
                    self.scarred = True
                if self.pin(reason, name):
                    reasons.append(reason)
                self.loosened = self.loosened or reason in _ASKED  # it may fail, or be rolled back
        return reasons

    def lost_by(self, effect: Effect, name: str) -> dict[str, Restore]:
        """Return the start-up settings that this effect undoes, to be set again."""
        if effect is Effect.DISCARD_ALL or (effect is Effect.RESET and name == "all"):
            return {name: (value, False) for name, value in self.startup.items}
        if effect in (Effect.RESET, Effect.RESET_LOCAL) and (value := self.startup.get(name)) is not None:
            return {name: (value, effect is Effect.RESET_LOCAL)}
        return {}

    def _set(self, effect: Effect, name: str) -> None:
        """Note that a statement sets or resets something."""
        for lost, (value, local) in self.lost_by(effect, name).items():
            # What the session has lost is not to be set again for its transaction alone.
            self.lost[lost] = (value, local and self.lost.get(lost, ("", True))[1])
        everything = effect is Effect.DISCARD_ALL or name == "all"
        recoded = self.settings.get(ENCODING) is not None or ENCODING in self.touched or ENCODING in self.asked
        self.recodes = self.recodes or name == ENCODING or (everything and recoded)
        if everything:
            self.touched |= self.asked.union(name for name, _ in self.settings.items)
            self.unsure |= PARSING
            return
        if effect in (Effect.SETTING, Effect.RESET) or "." in name:
            self.touched.add(name)
        if name in PARSING:
            self.unsure.add(name)

    def rest(self) -> None:
        """See whether anything is kept that a release has to look at."""
        kept = self.pins or self.touched or self.unsure or self.lost
        self.at_rest = not (kept or self.recodes or self.loosened or self.reading)

    def ended(self) -> None:
        """Note the end of a transaction: what was set for it alone is gone."""
        if self.unsure:
            self.unsure = set(PARSING & (self.touched | self.asked))
        if self.recodes:
            self.recodes = ENCODING in self.touched or ENCODING in self.asked

    # --- reading back ---------------------------------------------------------------------------------------------

    def ask(self) -> frozenset[str]:
        """Begin to read back what was touched, and return the names; what comes up from now on is for the next time."""
        self.reading = True
        self._found = {}
        self._unreadable = False
        self.asked = frozenset(self.touched)
        self.touched.clear()
        self.asked_state, self.loosened = self.loosened, False
        self.renewed.clear()
        return self.asked

    def heard(self, name: bytes, value: bytes, codec: str) -> bool | None:
        """Take one row of the answer; None: there are more, else whether all that is set can be carried elsewhere.

        Where it cannot, or the answer ended early (`not_read_back`), a pin is due.
        """
        if name:
            # Which characters the bytes of a client without an encoding are, only the server knows.
            if codec == tables.RAW and not value.isascii():
                self._unreadable = True
            self._found[name.decode("ascii", "replace")] = value.decode(codec, "replace")
            return None
        if self.asked_state:
            self._unpin({name[1:] for name in self._found if name[0] == "."})
        if self._unreadable or not self._take_over():
            self.not_read_back()
            return False
        self.reading = False
        return True

    def _take_over(self) -> bool:
        """Take over what the upstream says of the settings that were asked for; those not found are not set."""
        kept = {name: value for name, value in self.settings.items if name not in self.asked}
        found = {name: value for name, value in self._found.items() if name[0] != "."}
        # What was reset in a way that nobody saw (set_config with a null) is what the client connected with.
        reset = {name: value for name, value in self.startup.items if name in self.asked and name not in found}
        self.as_asked = not reset
        if self.naming is not None and APPLICATION_NAME in self.asked:
            # What the client has set itself is on the upstream now; the next lease has the composed name again.
            value = (found | reset).get(APPLICATION_NAME, "")
            found[APPLICATION_NAME] = self.naming.take(value)
            self.as_asked = self.as_asked and found[APPLICATION_NAME] == value
        self.settings = Settings.of((kept | reset | found).items())
        self.asked = frozenset()
        carried = all(
            name not in STAY_BEHIND or STAY_BEHIND[name].fullmatch(value) for name, value in self.settings.items
        )
        if carried and not self.scarred:
            self.pins.pop(SETTING, None)
        return carried

    def not_read_back(self) -> None:
        """Keep in mind what could not be read back."""
        self.reading = False
        self.touched |= self.asked
        self.asked = frozenset()
        self.asked_state = self.loosened = False

    def _unpin(self, held: Collection[str]) -> None:
        """End the pins whose state is gone; `held` are the reasons that the upstream has found to hold."""
        self.asked_state = False
        for reason in _ASKED - self.renewed - set(held):
            self.pins.pop(reason, None)
