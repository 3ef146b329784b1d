"""Write proxy/data/built_ins from servers of all major versions, which `make servers` installs: the objects of initdb.

Run it as `.venv/bin/python -m tools.built_ins`; tests/integration/test_built_in.py compares the tables with servers. A
later minor version can bring another digest alone: that of a function's text, say.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import psycopg

from proxy.sql.resolve import rows
from proxy.sql.resolve.built_in import KINDS
from proxy.sql.resolve.world import Tables
from tests import servers

FOLDER = Path(__file__).parents[1] / "proxy/data/built_ins"
WITH_OWN = ("types", "functions")
"""Kinds of which initdb makes others, too, whose OIDs differ."""


def tables(dsn: str) -> dict[str, list[tuple[str, ...]]]:
    """Return the rows of each kind that a server has built in, as text; and under `digests`, their digest."""
    found: dict[str, list[tuple[str, ...]]] = {}
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET search_path = ''")
        for kind, query in zip(("digests", *Tables._fields), rows.text(whole=True).split(";\n"), strict=False):
            result = connection.pgconn.exec_(query.encode())
            shown = [
                tuple((result.get_value(row, column) or b"").decode() for column in range(result.nfields))
                for row in range(result.ntuples)
            ]
            found[kind] = [row for row in shown if kind not in WITH_OWN or int(row[0]) < rows.FIRST_OWN]
    return {kind: found[kind] for kind in ("digests", *KINDS)}


def merged(versions: dict[int, list[tuple[str, ...]]]) -> list[tuple[str, ...]]:
    """Return the rows of several versions, each with the first and the last one that has it."""
    having: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for major, found in sorted(versions.items()):
        for row in found:
            having[row].append(major)
    lines = []
    for row, majors in having.items():
        since = majors[0]
        for major in majors:
            if major + 1 not in majors:
                lines.append((str(since), str(major), *row))
                since = next((later for later in majors if later > major), 0)
    return sorted(lines, key=lambda line: (int(line[2]), line[2:], line[0]) if line[2].isdecimal() else (0, line, ""))


def main() -> None:
    """Read all servers and write the tables."""
    everything = {}
    for major in servers.MAJORS:
        with servers.running(major) as server:
            everything[major] = tables(server.dsn("template1"))
    FOLDER.mkdir(exist_ok=True)
    for kind in ("digests", *KINDS):
        lines = merged({major: found[kind] for major, found in everything.items()})
        (FOLDER / f"{kind}.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
