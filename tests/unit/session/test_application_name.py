"""The two names of a client: its own, and the one that its upstreams show the DBA."""

from __future__ import annotations

import pytest

from proxy.pooling.snapshot import NO_SETTINGS, Settings
from proxy.session.application_name import MAX_NAME, Naming
from proxy.session.ledger import Ledger
from proxy.sql.verdict import Effect

PATTERN = "{user}@{application}"


@pytest.mark.parametrize(
    ("pattern", "user", "own", "shown"),
    [
        (PATTERN, "alice", "psql", "alice@psql"),
        (PATTERN, "alice", "", "alice@"),
        ("sidecart", "alice", "psql", "sidecart"),
        ("{application} of {user}", "{application}", "{user}", "{user} of {application}"),
        (PATTERN, "zoë", "a\tb", "zo?@a?b"),
        (PATTERN, "u" * 100, "psql", "u" * MAX_NAME),
    ],
)
def test_composed_name(pattern: str, user: str, own: str, shown: str) -> None:
    naming = Naming(pattern, user, own)
    assert (naming.shown, naming.own) == (shown, own)
    assert len(naming.shown.encode()) <= MAX_NAME


def test_client_is_told_its_own_name() -> None:
    naming = Naming(PATTERN, "alice", "psql")
    assert naming.to_client("alice@psql") == "psql"
    assert naming.to_client("what it has set itself") == "what it has set itself"


def test_name_that_is_set_is_composed_too_and_the_first_one_stays_known() -> None:
    naming = Naming(PATTERN, "alice", "psql")
    assert naming.take("report") == "alice@report"
    assert naming.to_client("alice@report") == "report"
    assert naming.to_client("alice@psql") == "psql"  # a RESET
    assert naming.take("alice@psql") == "alice@psql"
    assert naming.own == "psql"


def test_composed_name_is_not_composed_again() -> None:
    """A SET that was rolled back: what is read back is what SideCart has set."""
    naming = Naming(PATTERN, "alice", "psql")
    assert naming.take("alice@psql") == "alice@psql"


# --- in the ledger ----------------------------------------------------------------------------------------------------


def ledger(*pairs: tuple[str, str]) -> Ledger:
    settings = Settings.of(pairs)
    return Ledger(settings, Naming(PATTERN, "alice", settings.get("application_name") or ""))


def read_back(own: Ledger, **found: str) -> None:
    own.ask()
    for name, value in found.items():
        own.heard(name.encode(), value.encode(), "utf-8")
    assert own.heard(b"", b"", "utf-8")


def test_without_a_pattern_the_settings_are_the_clients_own() -> None:
    startup = Settings.of([("application_name", "psql")])
    assert Ledger(startup).settings is startup
    assert Ledger(NO_SETTINGS).settings is NO_SETTINGS


def test_upstreams_get_the_composed_name_and_equal_clients_share_a_snapshot() -> None:
    one, two = ledger(("application_name", "psql")), ledger(("application_name", "psql"))
    assert one.settings.get("application_name") == "alice@psql"
    assert one.settings is two.settings
    assert ledger().settings.get("application_name") == "alice@"


def test_set_is_composed_at_the_next_lease() -> None:
    own = ledger(("application_name", "psql"))
    own.apply([(Effect.SETTING, "application_name")])
    read_back(own, application_name="report")
    assert own.settings.get("application_name") == "alice@report"
    assert not own.as_asked  # this upstream has the bare name


def test_reset_returns_to_the_first_name() -> None:
    own = ledger(("application_name", "psql"))
    own.apply([(Effect.SETTING, "application_name")])
    read_back(own, application_name="report")
    own.apply([(Effect.RESET, "application_name")])
    assert own.lost == {"application_name": ("alice@psql", False)}
    read_back(own, application_name="alice@psql")
    assert own.settings is own.startup
    assert own.as_asked


def test_other_settings_do_not_touch_the_name() -> None:
    own = ledger(("application_name", "psql"))
    own.apply([(Effect.SETTING, "work_mem")])
    read_back(own, work_mem="64MB")
    assert own.settings.get("application_name") == "alice@psql"
    assert own.as_asked
