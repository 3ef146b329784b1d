"""Register the codecs by which PostgreSQL reads EUC_JP and EUC_JIS_2004: a few characters are other ones in Python's.

Names are compared as the server has them: what Python takes for a wave dash is a full-width tilde there, and the name
another function's.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

EUC_JP = "postgresql_euc_jp"
EUC_JIS_2004 = "postgresql_euc_jis_2004"
_DIFFERENT = {
    # backend/utils/mb/Unicode/euc_jp_to_utf8.map, euc_jis_2004_to_utf8.map
    EUC_JP: ("euc_jp", "\u301c\u2016\u2212\u00a2\u00a3\u00ac\u00a6", "\uff5e\u2225\uff0d\uffe0\uffe1\uffe2\uffe4"),
    EUC_JIS_2004: ("euc_jis_2004", "\uffe3\u2015\uffe5\u2985\u2986", "\u203e\u2014\u00a5\uff5f\uff60"),
}
"""Python's codec, characters as it reads them, and what the same bytes are to the server."""


def _find(name: str) -> codecs.CodecInfo | None:
    if name not in _DIFFERENT:
        return None
    base, here, there = _DIFFERENT[name]
    to_server, from_server = str.maketrans(here, there), str.maketrans(there, here)

    def decode(data: Buffer, errors: str = "strict") -> tuple[str, int]:
        encoded = bytes(data)
        return encoded.decode(base, errors).translate(to_server), len(encoded)

    def encode(text: str, errors: str = "strict") -> tuple[bytes, int]:
        return text.translate(from_server).encode(base, errors), len(text)

    return codecs.CodecInfo(encode, decode, name=name)


codecs.register(_find)
