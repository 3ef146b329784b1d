"""Judge SQL text, settings and FunctionCall messages: text in, `Verdict` out, remembered. Nothing here raises.

`sql/verdicts.py` makes the verdict on a text that is not remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import replace
from weakref import WeakValueDictionary

from proxy.sql import bound, refusals, settings, unread, verdicts
from proxy.sql import catalog as c
from proxy.sql import text as texts
from proxy.sql.cache import Came, Counts, Key, Scope, VerdictCache
from proxy.sql.catalog import FIRST_NORMAL_OID, TYPE, Catalog
from proxy.sql.functions import Functions
from proxy.sql.judgement import Judgement, Terms
from proxy.sql.normal_form import digits_are_constants, emptied, is_shareable, normal_form
from proxy.sql.picked import ByNames, Meaning
from proxy.sql.plain import MAX_MESSAGE, PlainMessages, Room
from proxy.sql.policy import Policy
from proxy.sql.resolve import Coercion, Resolver, effective
from proxy.sql.tables import Refusal, Refused
from proxy.sql.verdict import Action, Effect, Verdict
from proxy.sql.verdicts import ALLOWED, BY_NAMES, UNDER_PATH, is_valid, refuse
from proxy.sql.wanted import Wanted

__all__ = ["Filter", "Policy"]

VOID_PARSE = 2
"""How a text came, as `extended` says it: 0 in a Query, 1 in a Parse, this in a Parse that gives a parameter of type
void, which vanishes from the arguments of a function."""
OWN_PARSE = 4
"""The same, and to be added to the others: in a Parse that gives a parameter of a type that is not built in."""
MAX_SHAPED = 8192
"""Bytes of a text beyond which looking for its constants costs more than it is likely to save."""
MAX_COMMENTED = 64 << 10
"""Bytes of a text beyond which its comments are not looked for: that would hold the event loop for 0.2 ms."""
MAX_SEEN = 4_096
"""Texts with comments of which it is known that they came lately."""
MAX_PATHS = 32
"""Spellings of search_paths that are kept with what was found for them: clients can set more than anybody wants."""
MAX_PATH = 2_048
"""Characters of a search_path beyond which names are not resolved by it."""
MAX_SCHEMAS = 50
"""Schemas in a search_path beyond which names are not resolved by it: they are part of the key of each verdict."""


_UNPROVED = 0
"""Marks the scope of verdicts that were found before bodies were proved under their search_path."""


class Filter:
    """Judge texts for one database under one policy, and remember the verdicts.

    It judges for sessions that have the search_path they began with. Others have filters of their own (`under`,
    `wide`), which follow this one.
    """

    __slots__ = (
        "__weakref__",
        "_by_path",
        "_by_text",
        "_cleared",
        "_coercion",
        "_entries",
        "_followed",
        "_paths",
        "_resolver",
        "_room",
        "_scope",
        "_seen",
        "_types",
        "_wide",
        "cache",
        "caches",
        "counts",
        "dated",
        "folds",
        "functions",
        "plain",
        "plans_by_more",
        "policy",
        "proofs",
        "wanted",
    )

    def __init__(
        self, policy: Policy | None = None, cache: VerdictCache | None = None, *, followed: Filter | None = None
    ) -> None:
        """Begin. What follows another one is made by `under` and `wide`, and knows what that has learned."""
        self._followed = self if followed is None else followed
        self._wide: Filter | None = None
        self._by_text: OrderedDict[str, Filter] = OrderedDict()  # by the setting's value, used last at the end
        self._by_path: WeakValueDictionary[tuple[int, ...], Filter] = WeakValueDictionary()
        self._paths: frozenset[str] = frozenset()
        self._resolver: Resolver | None = None
        self._coercion: Coercion | None = None
        self._cleared: Collection[c.Key] | None = ()  # what is a read under the path alone; None: nobody has looked
        self.wanted: Wanted = Wanted() if followed is None else followed.wanted
        """The search_paths under which the next catalogue is to have bodies proved."""
        self.policy = policy or Policy()
        self.functions: Functions = Functions(self.policy) if followed is None else followed.functions
        self.cache = VerdictCache() if cache is None else cache
        self._entries = self.cache.entries
        self._scope: Scope = self.cache.new_scope()
        self.folds = self.caches = self.dated = False
        """As in Plans."""
        self.plans_by_more = False
        """Whether plans may depend on more than the settings that shape a Parse."""
        self.proofs: object | None = None
        """Differs from catalogue to catalogue; None: whatever a name can mean is judged, and plans can be older."""
        self._room: Room = Room() if followed is None else followed._room
        self.plain = PlainMessages(self._room)
        """Whole messages, in UTF-8, that are allowed and leave nothing behind."""
        self._seen: set[int] = set() if followed is None else followed._seen  # hashes: see _again
        self._types: frozenset[int] | None = None  # the OIDs of the catalogue's types, once one was asked for
        self.counts: Counts = Counts() if followed is None else followed.counts
        """Of those that follow it, too."""

    def __repr__(self) -> str:
        return f"<Filter {self.counts} {self.cache!r}>"

    @property
    def wide(self) -> Filter:
        """Return the filter for sessions of whose search_path nothing is known: a name can mean what bears it in any
        schema."""
        if not self.keeps_path:
            return self._followed.wide
        if self._wide is None:
            self._wide = self._follower(self.cache.new_scope(), None)
        return self._wide

    def under(self, path: str | None) -> Filter:
        """Return the filter for sessions with this search_path, as the setting has it; None: the one they began with.

        It holds as long as the catalogue does: behind that it judges as `wide` does, until it is asked for again.
        """
        if not self.keeps_path:
            return self._followed.under(path)
        if path is None:
            return self
        found = self._by_text.get(path)
        if found is not None:
            self._by_text.move_to_end(path)
            return found
        if len(path) > MAX_PATH:
            return self.wide
        found = self._by_text[path] = self._find_under(path)
        if len(self._by_text) > MAX_PATHS:
            self._by_text.popitem(last=False)
        return found

    def _find_under(self, path: str) -> Filter:
        catalog = self.catalog
        # Which letters beyond ASCII the server folds depends on its locale.
        names = settings.split_identifiers(path) if path.isascii() else None
        if catalog is None or catalog.world is None or names is None:
            return self.wide
        schemas = effective(catalog.world, names, catalog.role)
        return self.wide if schemas is None or len(schemas) > MAX_SCHEMAS else self.by(schemas)

    def by(self, schemas: tuple[int, ...] | None) -> Filter:
        """Return the filter for sessions whose search_path comes to these schemas; None: nobody knows."""
        if schemas is None or self._coercion is None:
            return self.wide
        if schemas == self.schemas and not self._cleared:
            return self
        found = self._by_path.get(schemas)
        if found is None:
            resolver = Resolver(self._coercion.world, schemas, coercion=self._coercion)
            known = self.functions.catalog
            cleared = known.cleared_under.get(schemas) if known is not None and known.taints else ()
            # What is refused for want of a proof is not remembered beyond that.
            scope = (self._scope, schemas if cleared is not None else (_UNPROVED, *schemas))
            found = self._by_path[schemas] = self._follower(scope, resolver)
            found._cleared = cleared
        return found

    def awaits_proof(self, verdict: Verdict) -> bool:
        """Tell whether a text may be a read under this search_path, under which nobody has proved bodies yet.

        The next catalogue is to say that: see `wanted`.
        """
        judge = self if verdict.moved_to is None else self._followed.by(verdict.moved_to)
        schemas = judge.schemas
        if judge._cleared is not None or schemas is None or not verdict.rule.startswith("unproved-"):
            return False
        self.wanted.note(schemas)
        return True

    @property
    def keeps_path(self) -> bool:
        """Whether it judges for sessions that keep the search_path they began with."""
        return self._followed is self

    @property
    def schemas(self) -> tuple[int, ...] | None:
        """Return the OIDs of the schemas in the search_path that names are resolved by; None: they are not."""
        return None if self._resolver is None else self._resolver.path

    def _follower(self, scope: Scope, resolver: Resolver | None) -> Filter:
        follower = Filter(self.policy, self.cache, followed=self)
        follower._follow(scope, resolver)
        return follower

    def _follow(self, scope: Scope, resolver: Resolver | None) -> None:
        """Take over policy and catalogue. What was judged by others is judged anew: see `functions`."""
        followed = self._followed
        self.policy = followed.policy
        self.functions = copy(followed.functions)
        self.folds, self.caches, self.dated = followed.folds, followed.caches, followed.dated
        self.plans_by_more = followed.plans_by_more
        self._scope = scope
        self._resolver = resolver
        self._cleared = ()
        self.proofs = None if resolver is None else self.wanted.catalogue
        self.plain.clear()

    @property
    def catalog(self) -> Catalog | None:
        """Return the live catalogue by which names are judged; None until one has been learned."""
        return self.functions.catalog

    def learn_version(self, server_version: int) -> None:
        """Judge for this server_version_num from now on: which names are built in depends on it."""
        if server_version // 10000 != self.policy.server_version // 10000:
            self.policy = replace(self.policy, server_version=server_version)
            self._start_anew(self.functions.catalog)

    def learn_catalog(self, catalog: Catalog | None) -> None:
        """Judge by this catalogue from now on; no verdict that was found by another one is used again."""
        self.policy = replace(self.policy, trouble="")
        self._start_anew(catalog)

    def learn_proofs(self, catalog: Catalog) -> None:
        """Judge by a catalogue that says what this one does, and more of what is a read under which search_path.

        No verdict is forgotten for that: those that it can change have a scope of their own.
        """
        functions = self.functions = copy(self.functions)
        functions.catalog = catalog
        for path in [path for path, found in self._by_text.items() if found._cleared is None]:
            del self._by_text[path]
        for schemas, found in list(self._by_path.items()):
            if found._cleared is None:
                del self._by_path[schemas]
            found.functions = copy(functions)
        if self._wide is not None:
            self._wide.functions = copy(functions)

    def learn_paths(self, paths: Collection[str], *, shadowed: bool) -> None:
        """Judge from now on for sessions that begin with these search_paths, as the settings have them.

        `shadowed`: one of them puts other schemas before pg_catalog. What was proved of bodies under a path with
        pg_catalog in front does not hold then: there is no catalogue. Where they differ from each other or from the
        catalogue's, because ALTER ROLE holds for new sessions only, nothing is resolved.
        """
        if self._paths != (found := frozenset(paths)):
            self._paths = found
            self._start_anew(self.functions.catalog)
        if shadowed != self.policy.shadowed:
            self.policy = replace(self.policy, shadowed=shadowed)
            self._start_anew(None if shadowed else self.functions.catalog)

    def learn_trouble(self, trouble: str) -> None:
        """Say from now on why there is no catalogue, to who is refused for want of it."""
        if self.catalog is None and trouble != self.policy.trouble:
            self.policy = replace(self.policy, trouble=trouble)
            self._start_anew(None)

    def _start_anew(self, catalog: Catalog | None) -> None:
        self.functions = Functions(self.policy, catalog)
        self._resolver = self._coercion = None
        if catalog is not None and catalog.world is not None and not self.policy.shadowed:
            self._coercion = Coercion(catalog.world)
            if not self._paths - {catalog.begins_with}:
                self._resolver = Resolver(catalog.world, catalog.path, coercion=self._coercion)
        self._scope = self.cache.new_scope()
        self._types = None
        known = catalog or Catalog()
        self._cleared = known.cleared
        self.folds, self.caches, self.dated = known.plans
        self.plans_by_more = self.folds or self.dated
        self.wanted.catalogue = object()
        self.proofs = None if self._resolver is None else self.wanted.catalogue
        self.plain.clear()
        if self._wide is not None:
            self._wide._follow(self.cache.new_scope(), None)
        # What a path comes to may be something else by now: who has one of these asks again.
        for each in list(self._by_path.values()):
            each._follow(self.wide._scope, None)
        self._by_path.clear()
        self._by_text.clear()

    def judge(
        self, sql: bytes, encoding: str = "utf-8", *, extended: int = False, types: tuple[int, ...] = ()
    ) -> Verdict:
        """Judge one query text, without its terminating NUL.

        `encoding` is the Python codec of the session's client_encoding. `extended`: the text came in a Parse message
        and may hold one statement at most; see VOID_PARSE, too. `types` are those that the Parse gives to parameters.
        """
        came = self._came(extended, types) if types else extended
        key = (sql, encoding, came, self._scope)
        verdict = self._entries.get(key)
        if verdict is not None:
            self.counts.hits += 1
            self._entries.move_to_end(key)
            return verdict
        bare = None
        shape = self._shape(sql, encoding)
        if shape is not None:  # here and not in `_alike`, which would cost half as much again
            verdict = self._entries.get((shape, encoding, came, self._scope))
            if verdict is not None:
                # The exact text is not kept: those that come with a new constant each time would push out the others.
                self.counts.shape_hits += 1
                self._entries.move_to_end((shape, encoding, came, self._scope))
                return verdict
        else:
            bare, shape = self._commented(sql, encoding)
            verdict = self._alike(sql, encoding, came, bare, shape)
            if verdict is not None:
                return verdict
        self.counts.misses += 1
        verdict, constants_decide, by_names = self._judge(sql, encoding, extended, types, bare)
        plain = verdict is ALLOWED["select"] or verdict is UNDER_PATH
        alike = plain and shape is not None and not constants_decide and is_shareable(shape)
        if by_names is not None:
            is_select = verdict is ALLOWED["select"]
            verdict = BY_NAMES[by_names] if is_select else replace(verdict, by_names=by_names.value)
        self._keep(sql, encoding, came, verdict, bare, shape if alike else None)
        return verdict

    def _came(self, extended: int, types: tuple[int, ...]) -> Came:
        return (extended, *types) if types and self._resolver is not None else extended

    def _shape(self, sql: bytes, encoding: str) -> str | None:
        if len(sql) > MAX_SHAPED or len(sql) > self.policy.max_query_length:
            return None
        return normal_form(sql) if sql.isascii() or is_valid(sql, encoding) else None

    def _commented(self, sql: bytes, encoding: str) -> tuple[bytes | None, str | None]:
        """Return a text with its comments emptied, if it has any, and the normal form of that; None where in doubt."""
        if not (b"--" in sql or b"/*" in sql) or len(sql) > MAX_COMMENTED or len(sql) > self.policy.max_query_length:
            return None, None
        bare = emptied(sql) if sql.isascii() or is_valid(sql, encoding) else None
        if bare is None:
            return None, None
        try:
            texts.check_operator_runs(sql.decode("latin-1"))  # those in comments cost the server as much
        except Refused:
            return None, None
        shape = normal_form(bare, comments=True) if len(bare) <= MAX_SHAPED else None
        return None if bare == sql else bare, shape

    def _alike(self, sql: bytes, encoding: str, came: Came, bare: bytes | None, shape: str | None) -> Verdict | None:
        """Return what is remembered of a text that differs in constants, or in comments."""
        key: Key | None = None
        verdict = None
        if shape is not None:
            key = (shape, encoding, came, self._scope)
            verdict = self._entries.get(key)
        if verdict is None and bare is not None:
            key = (bare, encoding, came, self._scope)
            verdict = self._entries.get(key)
        if key is None or verdict is None or not verdict.placeless:
            return None
        self.counts.shape_hits += 1
        self._entries.move_to_end(key)
        if bare is not None and self._again(sql):
            self.cache.remember((sql, encoding, came, self._scope), verdict)
        return verdict

    def _keep(
        self, sql: bytes, encoding: str, came: Came, verdict: Verdict, bare: bytes | None, shape: str | None
    ) -> None:
        """Remember a verdict for its text, or for all that differ from it in comments; and for all of a `shape`."""
        if verdict.moved_to is not None:
            return
        if verdict.by_names:
            self.cache.by_names[verdict.by_names] += 1
        if bare is None or self._again(sql):
            self.cache.remember((sql, encoding, came, self._scope), verdict)
        elif shape is None and verdict.placeless:
            self.cache.remember((bare, encoding, came, self._scope), verdict)
        if shape is not None:
            self.cache.remember((shape, encoding, came, self._scope), verdict)

    def _again(self, text: bytes) -> bool:
        """Tell whether a text with comments came lately: of those that change with every statement none is kept."""
        mark = hash(text)
        if mark in self._seen:
            return True
        if len(self._seen) >= MAX_SEEN:
            self._seen.clear()
        self._seen.add(mark)
        return False

    def recall(self, sql: bytes, encoding: str, extended: int, types: tuple[int, ...] = ()) -> Verdict | None:
        """Return what is remembered of such a text; None has it judged elsewhere, and counts as a miss.

        Of the text itself another process has found the verdict. One that is like it was judged here.
        """
        came = self._came(extended, types)
        if (sql, encoding, came, self._scope) in self._entries:
            return self.judge(sql, encoding, extended=extended, types=types)
        shape = self._shape(sql, encoding)
        bare, shape = self._commented(sql, encoding) if shape is None else (None, shape)
        verdict = self._alike(sql, encoding, came, bare, shape)
        if verdict is None:
            self.counts.misses += 1
        return verdict

    def remember(self, sql: bytes, encoding: str, extended: int, verdict: Verdict, types: tuple[int, ...] = ()) -> None:
        """Keep a verdict that another process found under this filter's policy, catalogue and search_path."""
        came = self._came(extended, types)
        self._keep(sql, encoding, came, verdict, self._commented(sql, encoding)[0], None)

    def remember_parse(self, message: bytes, verdict: Verdict) -> None:
        """Keep the verdict of a whole Parse message that is short, allowed, without effects, and steers nothing.

        Drivers send the same bytes again and again: one look-up then stands for decoding and judging them.
        """
        leaves_nothing = verdict.action is Action.ALLOW and not (verdict.effects or verdict.steers)
        if leaves_nothing and self._stays(message):
            self.plain.keep_parse(message, verdict)

    def remember_query(self, message: bytes, verdict: Verdict) -> None:
        """Keep the verdict of a whole Query message, in UTF-8, that is `plain`.

        It is that of all that differ in nothing but digits where each of these stands in a constant whose value had no
        part in it.
        """
        if len(message) > MAX_MESSAGE or self.plain.knows(message) or not self._stays(message):
            return
        form = normal_form(message[5:-1])
        alike = form is not None and digits_are_constants(form) and (form, "utf-8", 0, self._scope) in self._entries
        self.plain.keep_query(message, verdict, alike=alike)

    def _stays(self, message: bytes) -> bool:
        """Whether a message has no comments, or came with the same ones lately."""
        return not (b"--" in message or b"/*" in message) or self._again(message)

    def _judge(
        self, sql: bytes, encoding: str, extended: int, types: Sequence[int] = (), bare: bytes | None = None
    ) -> tuple[Verdict, bool, ByNames | None]:
        """Return the verdict, whether a constant's value had a part in it, and why it was found by names, if it was.

        `bare` is as in `_commented`.
        """
        resolver = self._resolver_for(sql, extended, types)
        moved: list[Filter] = []
        terms = Terms(
            void=bool(extended & VOID_PARSE),
            bound=bool(extended),
            own=None if extended & OWN_PARSE else frozenset(),
            meaning=None if resolver is None else Meaning(resolver, types),
            cleared=(self._cleared or ()) if resolver is not None else (),
            under=lambda path: None if _is_split(self.policy, sql) else _meaning(self.under(path), moved),
        )
        judgement = Judgement(self.functions, self.policy, terms)
        verdict = verdicts.make(judgement, sql, encoding, extended=bool(extended), bare=bare)
        if moved and moved[-1]._cleared is None and verdict.action is Action.REFUSE:
            verdict = replace(verdict, moved_to=moved[-1].schemas)
        return verdict, judgement.constants_decide, self._by_names(judgement)

    def _by_names(self, judgement: Judgement) -> ByNames | None:
        """Return why a query was judged by names."""
        if judgement.by_names is None or self._resolver is not None:
            return judgement.by_names
        return ByNames.CATALOGUE if self.catalog is None or self.catalog.world is None else ByNames.PATH

    def _resolver_for(self, sql: bytes, extended: int, types: Sequence[int]) -> Resolver | None:
        """Return the resolver, where the tree of a text shows what the server will see."""
        if self._resolver is None or len(sql) > self.policy.max_query_length:
            return None
        if extended & (VOID_PARSE | OWN_PARSE) and not types:
            return None
        return None if _is_split(self.policy, sql) else self._resolver

    @property
    def newer(self) -> int:
        """Return the server's major version, where it is newer than the grammar; otherwise 0."""
        return verdicts.newer(self.policy)

    def judge_types(self, verdict: Verdict, oids: Sequence[int]) -> Verdict | None:
        """Judge the parameter types that a Parse message gives by OID; None where no objection is.

        A parameter of a domain's type runs the domain's CHECK in Bind, and no name in the text shows it. `verdict` is
        the one on the text.
        """
        catalog = self.functions.catalog
        try:
            bound.check_types(verdict.at_bind, oids)
        except Refused as refused:
            return refuse(refused.refusal, verdict.kind)
        for oid in oids:
            taint = None if catalog is None else catalog.taints.get((TYPE, oid))
            if taint is not None:
                return refuse(refusals.unproved("unproved-type", taint), "unparsable")
            if oid >= FIRST_NORMAL_OID and oid not in self._known_types():
                blind = catalog is None and self.policy.live
                refusal = unread.needed(self.policy.trouble) if blind else refusals.unknown_type_oid(oid)
                return refuse(refusal, "unparsable")
        return None

    def judge_bind(
        self, verdict: Verdict, oids: Sequence[int], values: Sequence[bytes | None], encoding: str
    ) -> Verdict:
        """Judge the values of a Bind to a statement whose verdict is `at_bind`; `oids` are those of its Parse."""
        try:
            effects = bound.effects(verdict.at_bind, oids, values, encoding)
        except Refused as refused:
            return refuse(refused.refusal, verdict.kind)
        kept = [each for each in verdict.effects if each[0] is not Effect.AT_BIND]
        return replace(verdict, effects=(*kept, *effects), at_bind=())

    def _known_types(self) -> frozenset[int]:
        if not self.keeps_path:
            return self._followed._known_types()
        if self._types is None:
            types = () if self.catalog is None else self.catalog.types.values()
            self._types = frozenset(found.oid for each in types for found in each)
        return self._types

    def judge_setting(self, name: str, value: str) -> Verdict:
        """Judge one startup parameter, by the same table as SET. `options` is split into its settings."""
        answer = settings.judge_startup(name, value)
        if isinstance(answer, Refusal):
            return refuse(answer, "startup")
        return Verdict(Action.ALLOW, "startup", effects=tuple(answer))

    def judge_function_call(self, oid: int, formats: Sequence[int], arguments: Sequence[bytes | None]) -> Verdict:
        """Judge a FunctionCall message: reading large objects is all that it may do.

        `formats` are the message's argument format codes: none (all text), one for all, or one for each argument.
        """
        refusal = self.functions.fastpath(oid, formats, arguments)
        return Verdict(Action.ALLOW, "function_call") if refusal is None else refuse(refusal, "function_call")

    @staticmethod
    def python_codec(pg_encoding: str) -> str | None:
        """Give the Python codec for a PostgreSQL encoding's name in any spelling; None: unsafe or unknown."""
        return settings.python_codec(pg_encoding)


def _is_split(policy: Policy, sql: bytes) -> bool:
    """Tell whether a letter behind a number is a column's other name in a text, as it is for older servers."""
    return policy.server_version < texts.JUNK_SINCE and texts.may_split_numbers(sql)


def _meaning(judge: Filter, moved: list[Filter]) -> tuple[Meaning, Collection[c.Key]] | None:
    """Give by what a text is resolved that a filter judges, and what is a read then; None: nobody knows.

    It is put behind those that the text has `moved` to before.
    """
    moved.append(judge)
    resolver = judge._resolver
    return None if resolver is None else (Meaning(resolver), judge._cleared or ())
