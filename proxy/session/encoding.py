"""In which letters the server reads what a client sends now, and whether a name means there what it means here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from proxy import protocol as p
from proxy.pooling.owed import Shown
from proxy.pooling.sent import MustWait
from proxy.session import answers
from proxy.session.ledger import ENCODING
from proxy.session.link import Link
from proxy.session.parameter_status import codec_of
from proxy.session.session import Session
from proxy.sql.verdict import Effect, Verdict

_READS: Final = frozenset({"select", "set", "show", "empty"})
_VALUES: Final = frozenset({Effect.SETTING, Effect.SETTING_LOCAL})

Handler = Callable[[Session, bytes, int, int], bytes | None]


def recoding(session: Session, serve: Handler, data: bytes, pos: int, end: int) -> bytes | None:
    """Serve a message in the encoding in which the server reads it, if that is known before all is answered."""
    note_codec(session)
    codec = session.link.encoding.known if session.link is not None else ""
    if not codec:
        return serve(session, data, pos, end)
    answered, session.codec = session.codec, codec
    try:
        return serve(session, data, pos, end)
    finally:
        session.codec = answered


def note_codec(session: Session) -> None:
    """Keep in mind in which encoding the server reads a group that begins now, if nothing else is under way."""
    link = session.link
    if link is not None and not (link.replies.owed or link.group_open):
        link.encoding.became(_codec_ahead(session, link))


def _codec_ahead(session: Session, link: Link) -> str:
    """Return the codec by which the server reads what is sent now; nothing is unanswered.

    Behind a DISCARD ALL what the client connected with is set again first: see `resetting.check_discarded`.
    """
    again = None if link.discards is None else session.ledger.lost.get(ENCODING)
    return session.codec if again is None else session.filter.python_codec(again[0]) or session.codec


def check_letters(session: Session, text: bytes) -> None:
    """Raise MustWait for a text whose letters depend on a client_encoding that was sent and not answered.

    The server reads each message in the encoding that it has by then: judged in another one it means other names.
    """
    link = session.link
    if text.isascii() or link is None or link.encoding.known or not (link.replies.owed or link.group_open):
        return
    if session.groups.unanswered:
        raise MustWait
    if not link.encoding.obscured:
        return  # what has changed it was in a group before this one, and is answered
    # The server tells a change in the middle of a group when that ends, before 14 at once: so it is asked.
    if not link.asking:
        _ask_codec(session, link)
    raise MustWait


def _ask_codec(session: Session, link: Link) -> None:
    """Ask which client_encoding there is now, in the middle of a group; behind an error nobody wants to know."""
    group = session.groups.sent

    def told(value: str) -> None:
        link.asking = False
        if value:
            link.encoding.became(codec_of(session, value), group)

    link.asking = True
    link.suffix += link.help(b"SHOW client_encoding", Shown(told)) + p.message(p.FLUSH)


def check_names(session: Session, *names: bytes) -> None:
    """Raise Refusal for names of a message that the server has in other letters.

    Names are known by their bytes: in one encoding, that in which the server cuts off what is too long.
    """
    told = b"".join(names)
    if told.isascii():
        return
    if session.ledger.recodes:
        check_letters(session, told)
    if not session.has_the_servers_letters:
        raise answers.refused(session, answers.OTHER_LETTERS)


def executed(session: Session, link: Link, verdict: Verdict | None) -> None:
    """Keep in mind in which encoding the server reads the rest of the group, behind an Execute of this verdict.

    It gets there only if the Execute has succeeded. None, or what may change the encoding in a way that the text
    does not tell, or that may end the transaction for which it was set: it is not known any more.
    """
    if (
        verdict is not None
        and verdict.kind in _READS
        and not verdict.steers
        and all(effect in _VALUES and name != ENCODING for effect, name in verdict.effects)
    ):
        return
    if verdict is None and not session.ledger.recodes:
        return  # nothing that changes it was sent yet
    link.encoding.obscure(verdict.codec if verdict is not None else "")
