"""What a judgement is: allow, refuse or replace; its rule, SQLSTATE and position; what the text leaves behind."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple


class Action(enum.Enum):
    """What happens to a text."""

    ALLOW = "allow"
    """The client's exact bytes are forwarded."""
    REFUSE = "refuse"
    """Nothing is forwarded; the client gets an error."""
    REPLACE = "replace"
    """`Verdict.text`, generated from the tree, is forwarded instead, with a WARNING."""


class Effect(enum.Enum):
    """What an allowed statement changes in the session, for longer than itself, or needs of it."""

    SETTING = "setting"
    """SET SESSION or set_config(…, false); the name is the setting's, case-folded."""
    SETTING_LOCAL = "setting_local"
    """SET LOCAL or set_config(…, true): gone with the transaction; the name is the setting's, case-folded."""
    SETTING_INSIDE = "setting_inside"
    """A function or a view that the statement uses sets it until the transaction ends, at any time from its Parse on;
    the name is the setting's."""
    RESET = "reset"
    """RESET name, SET name TO DEFAULT, set_config(name, NULL, false); the name is the setting's, or `all`."""
    RESET_LOCAL = "reset_local"
    """SET LOCAL name TO DEFAULT, set_config(name, NULL, true); the name is the setting's."""
    PREPARE = "prepare"
    """SQL PREPARE; the name is the statement's."""
    EXECUTE = "execute"
    """SQL EXECUTE, also under EXPLAIN: it changes nothing by itself; the name is the prepared statement's."""
    EXPLAIN = "explain"
    """The EXECUTE that comes next is explained, and runs nothing but a query. It has no name."""
    FETCH = "fetch"
    """FETCH, but not MOVE: it changes nothing; the name is the cursor's."""
    LIST_STATEMENTS = "list_statements"
    """A look at pg_prepared_statements: it changes nothing; the name is the view's or the function's."""
    DEALLOCATE = "deallocate"
    """DEALLOCATE name; the empty name means ALL."""
    CLOSE = "close"
    """CLOSE name; the empty name means ALL."""
    UNLISTEN = "unlisten"
    """UNLISTEN channel; the empty name means *."""
    HOLD_CURSOR = "hold_cursor"
    """DECLARE … WITH HOLD; the name is the cursor's."""
    SESSION_STATE = "session_state"
    """A function that keeps state no statement can clear (setseed, set_limit …); the name is the function's."""
    TRANSACTION_ID = "transaction_id"
    """A function that gives its transaction an id, which is used up then: nothing of the session's; the name is the
    function's."""
    AT_BIND = "at_bind"
    """set_config with parameters: the values of a Bind say what it sets; see `Verdict.at_bind`. It has no name."""
    DISCARD_PLANS = "discard_plans"
    """DISCARD PLANS: what is prepared is analysed anew by its next use, under the settings of that."""
    DISCARD_ALL = "discard_all"
    """DISCARD ALL: everything above is gone, apart from SESSION_STATE."""


def changes_path(effect: Effect, name: str) -> bool:
    """Tell whether what a statement leaves behind can be another search_path than there was before."""
    return effect in _MAY_SET_ANY or (effect in _SETS and name in ("search_path", "all"))


_MAY_SET_ANY = frozenset({Effect.AT_BIND, Effect.DISCARD_ALL})
_SETS = frozenset({Effect.SETTING, Effect.SETTING_LOCAL, Effect.SETTING_INSIDE, Effect.RESET, Effect.RESET_LOCAL})


class AtBind(NamedTuple):
    """Say what a call of set_config is given. A number is that of a parameter, from 1 on."""

    name: str | int
    value: str | int | None
    """None: SQL computes it, or it is NULL where the call `resets`."""
    resets: bool
    local: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """Say what is to be done with one SQL text.

    `kind` is a bounded label for metrics (`select`, `set`, `begin`, `multi` for several statements, `empty`).
    `position` counts characters of the client's text from 1; 0 means none. `effects` holds (effect, name) pairs in
    the order of the statements; the session decides what they pin. `boundary` is `begin`, `commit` or `rollback` where
    the text is nothing but that: one statement, without AND CHAIN, and whose modes (those of `text`, for a replacement)
    make no difference before the first statement that reads: neither SERIALIZABLE nor [NOT] DEFERRABLE. `prepares` has
    the name and the text of each PREPARE, to judge it again.
    """

    action: Action
    kind: str
    rule: str = ""
    sqlstate: str = ""
    message: str = ""
    detail: str = ""
    hint: str = ""
    position: int = 0
    text: bytes | None = None
    warning: str = ""
    effects: tuple[tuple[Effect, str], ...] = ()
    boundary: str = ""
    prepares: tuple[tuple[str, bytes], ...] = ()
    statements: int = 1
    """How many statements the text holds."""
    nulls: tuple[tuple[int, str], ...] = ()
    """Where the text gives a NULL to set_config, in bytes of UTF-8, and for which setting: its answer is the value
    that the client connected with."""
    at_bind: tuple[AtBind, ...] = ()
    """What is judged by the values of each Bind; no SQL may execute such a statement."""
    object: str = ""
    """The function, relation, type, operator or setting that it was refused for."""
    lacks: bool = False
    """Whether that was refused for want of something that its own text names: see Taint."""
    under_path: bool = False
    """Whether it is a read under the search_path that the session has, and maybe under no other one."""
    moved_to: tuple[int, ...] | None = None
    """The schemas of the search_path that the text sets, where it was refused before bodies were proved under that."""
    by_names: str = field(default="", compare=False)
    """Why it was judged by all that bears its names, and not by what they mean: see picked.ByNames."""
    codec: str = ""
    """Where the text is nothing but a SET of client_encoding: the Python codec of what it sets."""
    label: tuple[str, str] = field(init=False)
    """(action, kind): the metric's key, made once for a verdict that is used many times."""
    steers: bool = field(init=False)
    """Whether only the server knows, once it has run, if the session is in a transaction block that has not failed."""
    plain: bool = field(init=False)
    """Whether it is one query that goes upstream as it is, and leaves nothing behind, nor depends on anything set."""

    @property
    def unresolved(self) -> bool:
        """Whether it was refused for want of a catalogue, or for a name that it does not have, in the text or in what
        that calls: a newer one could know better."""
        return self.lacks or self.rule in UNRESOLVED

    @property
    def placeless(self) -> bool:
        """Whether it holds for every text of the same tokens: it is allowed, and nothing in it is of a place there."""
        return self.action is Action.ALLOW and not self.prepares and not self.nulls

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", (self.action.value, self.kind))
        object.__setattr__(self, "steers", self.kind in _STEERING or self.action is Action.REFUSE)
        bare = self.action is Action.ALLOW and self.kind == "select" and self.statements == 1 and not self.under_path
        object.__setattr__(self, "plain", bare and not (self.effects or self.nulls or self.at_bind))


_STEERING = frozenset({"begin", "commit", "rollback", "rollback_to", "multi", "execute"})
UNRESOLVED = frozenset(
    {"unknown-function", "unknown-relation", "unknown-type", "unknown-operator", "no-catalogue", "keyword-function"}
)
