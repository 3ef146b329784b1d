"""SideCart: a PostgreSQL wire-protocol proxy that lets reads through and nothing else.

The words of this package, used with one meaning everywhere:

- *client*: who connects to us; *upstream*: the PostgreSQL server, and our connections to it.
- *frontend message*: client to server; *backend message*: server to client.
- *verdict*: allow, refuse, or replace.
- *lease* / *release* an upstream; *link*: the live pair of one client and one upstream; *pin*: a link kept
  between transactions because of state that cannot be carried over, with a reason.
- *reply owed*: a backend message that a forwarded frontend message will cause.
- *drain*: finish what runs, take nothing new.

Floors, each importing only from those below: errors, config, rules, verdict, stats (0); protocol, auth, walk,
ledger, pool, replies (1); filter (2); session (3); upstream, audit, metrics, web (4); server (5);
cli, commands (6).
"""

__version__ = "0.1.0"
