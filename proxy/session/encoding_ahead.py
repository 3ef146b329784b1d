"""In which encoding the server reads what is sent now, where that may be another than what it has last reported."""

from __future__ import annotations

from proxy.pooling.sent import NEVER, Groups


class EncodingAhead:
    """Follow client_encoding behind what one lease has under way: the server reads each message in what it has by then.

    Only a session that changes it (`Ledger.recodes`) looks here.
    """

    __slots__ = ("_codec", "_groups", "_known_in", "obscured_in")

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self.obscured_in = NEVER
        """The last group in which something may have changed it."""
        self._known_in = NEVER  # in this group what comes next is read by `_codec`, if the server gets to it
        self._codec = ""

    @property
    def known(self) -> str:
        """Return the codec by which the rest of the open group is read; "": that is not known, or as reported."""
        return self._codec if self._known_in == self._groups.sent else ""

    @property
    def obscured(self) -> bool:
        """Whether something in the open group may have changed it."""
        return self.obscured_in == self._groups.sent

    def became(self, codec: str, group: int | None = None) -> None:
        """Note by which codec the rest of a group is read, the open one or that of this number."""
        self._known_in = self._groups.sent if group is None else group
        self._codec = codec

    def obscure(self, codec: str = "") -> None:
        """Note that what is sent now may change it: to this codec, or nobody knows to which."""
        self.obscured_in = self._groups.sent
        if codec:
            self.became(codec)
        elif self._known_in == self._groups.sent:
            self._known_in = NEVER
