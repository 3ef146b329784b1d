"""What a client is told of its parameters: each ParameterStatus once, in its own words, and none that proves a hole."""

from __future__ import annotations

from proxy import protocol as p
from proxy.pooling.guard import LOCKED
from proxy.pooling.replies import TripwireError
from proxy.session.application_name import APPLICATION_NAME
from proxy.session.ledger import ENCODING
from proxy.session.link import Link
from proxy.session.session import Session
from proxy.session.startup import OF_THE_SERVER


def reported(session: Session, body: bytes) -> bytes:
    """Note a ParameterStatus; return the one that the client gets for it, if any. Raises TripwireError."""
    link = session.link
    name, value = p.note_parameter(link.upstream.parameters if link is not None else {}, body)
    if link is not None and (name in OF_THE_SERVER or not _sets(session, link, name)):
        session.pool.unsettle(link.upstream)
    return tell(session, link, name, value)


def tell(session: Session, link: Link | None, name: str, value: str) -> bytes:
    """Return the ParameterStatus that tells the client a value, if it was told another one. Raises TripwireError."""
    if LOCKED.get(name, value) != value:
        raise TripwireError(f"the upstream reports {name} = {value}")
    peer = session.peer
    if link is not None:
        replies = link.replies
        if replies.helping:
            return b""  # what is put on for a Parse of ours comes off again
        if peer.leaving and replies.cutting:
            return b""  # the client has said Terminate, and no Sync
        if name.lower() in session.ledger.lost and replies.resets(name.lower()):
            # The server's value after a RESET; ours, which follows, is what the client connected with.
            value = peer.greeted.get(name, value)
    if name == ENCODING:
        session.codec = codec_of(session, value)
    elif name == APPLICATION_NAME:
        if session.ledger.naming is not None:
            value = session.ledger.naming.to_client(value)
        peer.who.application = value
    if peer.reported.get(name) == value:
        return b""
    peer.reported = {**peer.reported, name: value}
    return p.parameter_status(name, value)


def codec_of(session: Session, encoding: str) -> str:
    """Return the Python codec of what the upstream says client_encoding is. Raises TripwireError."""
    codec = session.filter.python_codec(encoding)
    if codec is None:
        raise TripwireError(f"the upstream reports client_encoding = {encoding}")
    return codec


def _sets(session: Session, link: Link, name: str) -> bool:
    """Whether a parameter may have its value from this client, or from what puts its settings on."""
    ledger, former, key = session.ledger, link.before[2], name.lower()
    if former is None or ledger.unsure or link.replies.helping or link.replies.resetting:
        return True
    if key in ledger.touched or key in ledger.asked:
        return True
    return ledger.settings.get(key) is not None or former.get(key) is not None
