"""Hold what is found out about one text, and by what it is judged.

`kinds.py` and `expressions.py` judge the statements in it and write down here what they find; `filter.py` makes a
verdict of that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from proxy.sql import refusals
from proxy.sql import tables as rules
from proxy.sql.catalog import TYPE, Key
from proxy.sql.functions import Functions
from proxy.sql.picked import ByNames, Meaning
from proxy.sql.policy import Policy
from proxy.sql.tables import Refused
from proxy.sql.verdict import AtBind, Effect, changes_path
from proxy.sql.walk import Body


class Terms(NamedTuple):
    """On what terms a statement will run; what a statement holds another one in changes them for that one."""

    void: bool = False
    """Parameters can be of type void for a reason that the statement does not show."""
    polymorphic: bool = False
    """It is the body of a function in SQL with polymorphic arguments: they are parameters, are called by name, too, and
    can be of any type."""
    bound: bool = False
    """A Bind gives parameters their values before anything runs."""
    own: frozenset[int] | None = frozenset()
    """The database's own types that parameters and names can be of, and the text does not show it; None: any."""
    variables: Mapping[str, str] | None = None
    """It is a piece of a function with parameters or variables of these names and built-in types; an empty text is any
    type."""
    meaning: Meaning | None = None
    """Finds what the server picks; None: the search_path that the text will run with is not known, and a name can mean
    whatever bears it in any schema."""
    cleared: Collection[Key] = ()
    """What is a read under that path, although it is none under every path."""
    under: Callable[[str], tuple[Meaning, Collection[Key]] | None] | None = None
    """Gives the two above for a search_path that a statement of the text sets; None: nobody knows."""
    alone: bool = True
    """The text holds nothing but one statement."""
    lasts: bool = False
    """What is judged may run later on, when the search_path is another one."""
    resolves: bool = True
    """The server looks the names of a query up before anything else can change the search_path."""
    declared: Sequence[Body] = ()
    """The TypeNames of the parameters that a PREPARE has."""


IN_A_QUERY = Terms()
_LEAVING_PATH = frozenset({"SelectStmt", "VariableSetStmt", "VariableShowStmt", "ExplainStmt", "CopyStmt"})
"""Statements that change the search_path only as their effects tell: no FETCH, nor the end of a transaction."""


class Judgement:
    """Hold the terms of one text, and the findings about the statements in it so far."""

    __slots__ = (
        "astray",
        "at_bind",
        "boundary",
        "by_names",
        "catalog",
        "codec",
        "constants_decide",
        "depth",
        "effects",
        "flagged",
        "functions",
        "kind",
        "known_from",
        "literals",
        "nulls",
        "occurring",
        "path",
        "policy",
        "read",
        "relied",
        "replacement",
        "terms",
        "under_path",
    )

    def __init__(self, functions: Functions, policy: Policy, terms: Terms = IN_A_QUERY) -> None:
        self.functions = functions
        self.policy = policy
        self.catalog = functions.catalog
        self.terms = terms
        """Those of the statement at hand."""
        self.literals: dict[int, Body] = {}
        """The TypeNames that constants are written with, by id(). They are kept, for the tree of SQL given as text is
        gone before the statement is judged, and another TypeName could be made where one of them was."""
        self.depth = 0
        """Of SQL given as text to functions."""
        self.read: set[tuple[object, ...]] = set()
        """What was looked up and found to be a read."""
        self.occurring: set[int] = set()
        """With variables: the database's own types that values in what was judged can be of."""
        self.path: str | None = None
        """The search_path that the statement at hand sets, if it does nothing else and says which."""
        self.known_from = 0
        """How many of the effects are those of statements before one that has set the search_path to what is known."""
        self.astray = False
        """Whether a statement behind that one may have set another one, in ways that no effect tells."""
        self.relied: Refused | None = None
        """Why what the statement uses that is cleared is no read under another path."""
        self.under_path = False
        """As in Verdict."""
        self.effects: list[tuple[Effect, str]] = []
        """What the statements so far leave behind, as in Verdict."""
        self.nulls: list[tuple[int, str]] = []
        self.at_bind: list[AtBind] = []
        self.codec = ""
        """These three as in Verdict."""
        self.flagged = ""
        """A relation with secrets that is read."""
        self.kind = ""
        self.replacement = ""
        self.boundary = ""
        """These three are the last statement's, by `kinds.judge`."""
        self.by_names: ByNames | None = None
        """Why the first query of which not every name is known was judged by names; without a resolver: TEXT."""
        self.constants_decide = False
        """Whether a constant's value had a part in the verdict: another text of the same shape may get another one."""

    @property
    def changes_path(self) -> bool:
        """Whether nobody knows any more which search_path the statements so far leave to what comes behind them."""
        effects = self.effects[self.known_from :] if self.known_from else self.effects
        return self.astray or any(changes_path(*each) or each[0] is Effect.EXECUTE for each in effects)

    def move(self, name: str) -> None:
        """Go on to the next statement of the text, behind one of this name, under the search_path that it will find.

        The server analyses each when the one before has run, and none behind one that fails.
        """
        path, self.path = self.path, None
        if path is None:
            self.astray = self.astray or (self.known_from > 0 and name not in _LEAVING_PATH)
            return
        known = None if self.terms.under is None else self.terms.under(path)
        self.astray = known is None
        if known is not None:
            self.terms = self.terms._replace(meaning=known[0], cleared=known[1])
            self.known_from = len(self.effects)
            self.relied = None

    def is_cleared(self, kind: str, oid: int, rule: str, location: int) -> bool:
        """Tell whether what is picked is a read under the search_path of the statement, and under no other one.

        What a statement sets may come before what it calls, so it is judged at its end: see `own_objects.judge`.
        """
        if self.terms.lasts or self.catalog is None or (kind, oid) not in self.terms.cleared:
            return False
        taint = self.catalog.taints.get((kind, oid))
        if taint is not None and self.relied is None:
            self.relied = Refused(refusals.unproved(rule, taint), location)
            self.under_path = True
        return True

    def touch(self, type_: int, location: int) -> None:
        """Judge the type of a column that a statement touches, or of the rows of a table. Raises Refused."""
        taint = None if self.catalog is None else self.catalog.taints.get((TYPE, type_))
        if taint is not None:
            raise Refused(refusals.unproved("unproved-type", taint), location)

    def called(self, function: str) -> None:
        """Note what a call of a function of this name leaves behind by itself."""
        if function in rules.SESSION_STATE_FUNCTIONS:
            self.effects.append((Effect.SESSION_STATE, function))
        elif function in rules.TRANSACTION_ID_FUNCTIONS:
            self.effects.append((Effect.TRANSACTION_ID, function))
        elif function == rules.STATEMENTS_FUNCTION:
            self.effects.append((Effect.LIST_STATEMENTS, function))
