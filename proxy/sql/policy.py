"""Say what an operator decides about the filter. Data, no logic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """Hold what an operator decides about the filter. Patterns are `name`, `schema.name`, and either with a `*`."""

    allow_functions: tuple[str, ...] = ()
    """Functions that are reads although nothing proves it; operators (`schema.@@`), views, types and foreign tables,
    too."""
    allow_extensions: tuple[str, ...] = ()
    """Extensions that are trusted as a whole, but for the functions of which the tables say that they do more."""
    deny_functions: tuple[str, ...] = ()
    """Functions that are refused although the tables allow them; wins over `allow_functions`."""
    max_query_length: int = 1 << 20
    """Bytes of a query text; longer ones are refused with 54000."""
    server_version: int = 0
    """The upstream's server_version_num. 0: unknown, and taken for a version as new as the parser's."""
    live: bool = False
    """Statements are judged by a live catalogue: until it is there, what needs it is refused."""
    trouble: str = ""
    """Why the live catalogue could not be read, in words that a client may read; empty: it is on its way."""
    shadowed: bool = False
    """Sessions of the server begin with a search_path that puts other schemas before pg_catalog: a built-in's name can
    mean somebody else's object."""
