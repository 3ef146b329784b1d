"""Statements that the link lacks: parsed under names of ours, and again, under the settings that shaped them.

Every function returns the bytes to send, and has registered the replies to them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from proxy import protocol as p
from proxy.errors import DUPLICATE_PREPARED_STATEMENT
from proxy.pooling import owed as r
from proxy.pooling.owed import Described, Dropped, Learned, NamedParse
from proxy.pooling.snapshot import ANY_SETTINGS, LEARN, NEXT_SETTINGS, TAKE_OFF, Settings, wear
from proxy.pooling.statements import OF_ANOTHER, Context, Statement
from proxy.session import answers
from proxy.session.leasing import count_replay
from proxy.session.link import Link
from proxy.session.portals import key
from proxy.session.session import Session
from proxy.sql.verdict import Verdict

# --- the settings that shape a Parse ----------------------------------------------------------------------------------


def context_of(session: Session, verdict: Verdict, text: bytes) -> Context:
    """Return the settings that shape a Parse which is sent now; None where the server has to be asked."""
    # Nothing but a query is analysed at Parse; whatever else it is, is read when it runs (analyze.c). But which
    # letters its bytes are is settled at once.
    return session.ledger.context if verdict.kind == "select" or not text.isascii() else ANY_SETTINGS


def in_context(
    session: Session, link: Link, context: Context, parse: Callable[[], bytes], *, ended: bool = False
) -> bytes:
    """Send a Parse again under the settings that shaped it, whatever they are now. `ended`: no matter how it is
    known to stand with the transaction."""
    failed = link.transaction.status == p.FAILED and not ended
    if failed or context in (None, ANY_SETTINGS, NEXT_SETTINGS, session.ledger.context):
        return parse()
    return link.help(wear(context)) + parse() + link.help(TAKE_OFF)


def at_home(session: Session, statement: Statement) -> bool:
    """Whether a statement is used under the settings that shaped it, if others may use it, too.

    The plan is made then, or made anew, with the literals, and with what functions labelled IMMUTABLE return.
    """
    context = statement.context
    if context is ANY_SETTINGS or statement.apart:
        return True
    ledger = session.ledger
    if context is not ledger.settings.parsing or ledger.unsure:
        return False
    return not (session.filter.folds and ledger.special)


def may_be_analysed_anew(session: Session, context: Context) -> bool:
    """Whether a use may have a statement of this context analysed anew, under all the settings that there are then.

    That is behind a DISCARD PLANS, and where the search_path is another one (RevalidateCachedQuery(), plancache.c).
    """
    if context is None or context is ANY_SETTINGS:
        return False
    if context is NEXT_SETTINGS or session.ledger.roams:
        return True
    return _leads_elsewhere(session, context.path, session.ledger.settings.path)


def _leads_elsewhere(session: Session, path: str | None, other: str | None) -> bool:
    """Whether two values of search_path come to other schemas, as far as that is known."""
    if path == other:
        return False
    schemas, others = session.judge.under(path).schemas, session.judge.under(other).schemas
    return schemas is not None and others is not None and schemas != others


def learn_use(session: Session, link: Link, context: Callable[[], Context], shape: Callable[[Settings], None]) -> bytes:
    """Ask for the settings at a use; `shape` is told if that has a statement of this `context` analysed anew.

    It stands in the use's group: where that fails, nobody is told. Another use may have shaped it before the answer.
    """

    def told(found: Settings) -> None:
        before = context()
        if before is NEXT_SETTINGS or (before is not None and _leads_elsewhere(session, before.path, found.path)):
            shape(found)

    return link.help(LEARN, Learned(session.codec, told))


def unreadable_named(session: Session, statement: Statement) -> bool:
    return unreadable(session, statement.context, statement.body, statement.codec)


def unreadable(session: Session, context: Context | Learned, body: bytes, codec: str) -> bool:
    """Whether the server could read other letters in a statement, were it parsed again, than it was judged by.

    Nobody knows which settings shaped it: what asked for them has failed, or is not answered.
    """
    if isinstance(context, Learned):
        context = context.context
    return context is None and not body.isascii() and (codec != session.codec or session.ledger.recodes)


# --- named ones -------------------------------------------------------------------------------------------------------


def drop(session: Session, link: Link, names: list[bytes]) -> bytes:
    """Close statements of ours."""
    session.prepared.closes_sent(names)
    for name in names:
        link.replies.owe(Dropped(link.held, name))
    return b"".join(p.target(p.CLOSE, b"S", name) for name in names)


def parse_named(session: Session, link: Link, name: bytes, statement: Statement, *, told: bool) -> bytes:
    """Send a client's Parse under a name of ours, and ask what it describes: that decides who shares it."""
    out = drop(session, link, link.held.surplus(1))
    parsed = _parsed(session, link, statement, key(name), new=True)
    link.replies.owe(parsed)
    out += _parse_and_describe(link, parsed, told=told)
    statement.noted_as = parsed.server_name
    # Those who have its twin get the new one, unless Describe says that it is none of theirs any more.
    out += drop(session, link, link.held.twins(statement))
    return out + _learn(session, link, statement)


def parse_own(session: Session, link: Link, name: bytes, statement: Statement, *, told: bool) -> bytes:
    """Send a client's Parse as it is: the server has statements of the client's, and knows which names are free."""
    known_as = key(name)
    own = link.put_own()

    def kept(parsed: Statement) -> None:
        session.prepared.keep(known_as, parsed)
        own.keep(known_as, True)

    parsed = NamedParse(r.PARSE, statement, name, kept, partial(session.prepared.replace, known_as))
    statement.noted_as = known_as
    session.prepared.parse_sent(known_as, statement)
    own.parse_sent(known_as, True)
    link.replies.owe(parsed)
    return _parse_and_describe(link, parsed, told=told) + _learn(session, link, statement)


def parse_in_vain(session: Session, link: Link, name: bytes, body: bytes) -> bytes:
    """Send a Parse whose name is taken under another: only if nothing else is wrong with it that is its error."""
    ours = link.held.new_name()
    link.replies.owe(r.SKIP)
    link.replies.owe(Dropped(link.held, ours))
    shown = name.decode(session.codec, "replace")
    taken = answers.error(session, DUPLICATE_PREPARED_STATEMENT, f'prepared statement "{shown}" already exists')
    trial = p.message(p.PARSE, ours + b"\0" + body) + p.target(p.CLOSE, b"S", ours)
    return trial + answers.answer(session, taken, p.PARSE, unnamed=False)


def _learn(session: Session, link: Link, statement: Statement) -> bytes:
    """Ask for the settings that shaped a Parse, where only the server knows them."""
    if statement.context is not None:
        return b""
    return link.help(LEARN, Learned(session.codec, statement.shape))


def _parsed(session: Session, link: Link, statement: Statement, client: bytes, *, new: bool) -> NamedParse:
    """Follow a Parse under a name of ours of the client's statement of that name: a `new` one, or parsed before."""
    held, prepared = link.held, session.prepared
    name = held.new_name()

    def kept(parsed: Statement) -> None:
        if new:
            prepared.keep(client, parsed)
        held.keep(parsed, name)

    def replaced(mine: Statement, shared: Statement) -> None:
        held.replace(mine, shared)
        prepared.replace(client, mine, shared)

    prepared.repeat_sent(statement, name)
    if new:
        prepared.parse_sent(client, statement)
    return NamedParse(r.PARSE if new else r.REPEAT, statement, name, kept, replaced)


def parse_again(session: Session, link: Link, statement: Statement, name: bytes) -> tuple[bytes, bytes]:
    """Put the client's statement of this name on a link that lacks it; return its name there, and what to send."""
    link.transaction.asked_in = session.groups.sent
    out = drop(session, link, link.held.surplus(1))
    parsed = _parsed(session, link, statement, key(name), new=False)
    count_replay(session, link)

    def parse() -> bytes:
        link.replies.owe(parsed)
        return _parse_and_describe(link, parsed, told=False)

    out += in_context(session, link, statement.context, parse)
    return parsed.server_name, out + _learn(session, link, statement) if statement.apart else out


def _parse_and_describe(link: Link, parsed: NamedParse, *, told: bool) -> bytes:
    """Send a Parse, and ask what belongs to its statement's identity; `told`: what it has noted of another one."""
    statement = parsed.statement
    parse = p.message(p.PARSE, parsed.server_name + b"\0" + statement.body)
    if told:
        link.replies.owe(Described(r.SKIP_DESCRIBE, statement.note_rows, exact=True))
    elif statement.verdict.kind == "select":
        link.replies.owe(Described(r.SKIP_DESCRIBE, parsed.described))
    else:
        return parse  # the server notes once what it gives, and never looks again (plancache.c)
    return parse + p.target(p.DESCRIBE, b"S", parsed.server_name)


def name_on(session: Session, link: Link, statement: Statement, name: bytes) -> bytes | None:
    """Return under which name a message finds a statement of this name of the client's. Raises MustWait."""
    if link.own_name(key(name)):
        return key(name)
    prepared = session.prepared
    ours = prepared.on_link(statement, link.held)
    if ours is not None and prepared.shown.get(ours, name) != name and link.replies.owed:
        return None  # an error that is on its way is to tell the other name
    return ours


# --- the unnamed one --------------------------------------------------------------------------------------------------


def describe_unnamed(session: Session, link: Link, message: bytes) -> bytes:
    """Ask what the server has noted of a Parse that gives the rows of another statement, or of a cursor."""
    link.replies.owe(Described(r.SKIP_DESCRIBE, partial(tell_unnamed, session, message)))
    return p.target(p.DESCRIBE, b"S", b"")


def silent_unnamed(session: Session, message: bytes, verdict: Verdict) -> bytes | None:
    """Return the parameter types of such a statement if it was noted that it gives no rows: see `Statement`."""
    told = session.unnamed.told
    if verdict.kind not in OF_ANOTHER or told is None or told[0] is not message:
        return None
    types = message[message.index(0, 6) + 1 :]
    return types if told[1] == types else None


def repeat_unnamed(session: Session, link: Link, message: bytes, verdict: Verdict) -> bytes:
    """Send the client's unnamed statement again, which the link lacks."""
    link.transaction.asked_in = session.groups.sent
    link.replies.owe(r.REPEAT_UNNAMED)
    session.unnamed.repeat_sent()
    told = session.unnamed.told
    if told is None or told[0] is not message or verdict.kind in OF_ANOTHER:
        return message  # the client has to ask what it gives, in a group that it does not know yet
    _, before, whole = told
    same = before.__eq__ if whole else partial(_gives, before)
    link.replies.owe(Described(r.SKIP_DESCRIBE, same))
    return message + p.target(p.DESCRIBE, b"S", b"")


def tell_unnamed(session: Session, message: bytes, described: bytes) -> bool:
    """Note what the server says of the unnamed statement."""
    session.unnamed.told = (message, described, True)
    return True


def tell_rows(session: Session, message: bytes, rows: bytes) -> bool:
    """The same of what a Describe of its portal has said, which tells no parameters."""
    told = session.unnamed.told
    if told is None or told[0] is not message:
        session.unnamed.told = (message, rows, False)
    return True


def _gives(rows: bytes, described: bytes) -> bool:
    """Return whether a statement that is described so gives these rows."""
    return described[2 + 4 * int.from_bytes(described[:2], "big") :] == rows
