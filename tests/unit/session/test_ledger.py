"""What a client's session is: the snapshot of its settings, the ledger of its state, and the login that starts both."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from hypothesis import given, strategies
from pglast import parse_sql

from proxy.config.schema import PoolLimits
from proxy.errors import CloseReason
from proxy.filter import Filter
from proxy.pooling.pool import Pool
from proxy.pooling.snapshot import NO_SETTINGS, Settings, assign, replay, restore
from proxy.session import startup
from proxy.session.ledger import Ledger
from proxy.session.startup import LoginRefusedError, known_greeting, remember_greeting, vet
from proxy.sql.verdict import Effect
from proxy.stats import Stats

TEXT = strategies.text(strategies.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)


def read_back(sql: bytes) -> list[tuple[str, ...]]:
    """Parse replay SQL with PostgreSQL's grammar; return ("RESET", name …), ("ALL",) and ("SET", name, value)."""
    found: list[tuple[str, ...]] = []
    for raw in parse_sql(sql.decode("ascii")):
        statement: Any = raw.stmt
        if type(statement).__name__ == "VariableSetStmt":
            found.append(("ALL",) if statement.name is None else ("RESET", statement.name))
            continue
        for target in statement.targetList:
            call = target.val
            assert [part.sval for part in call.funcname] == ["pg_catalog", "set_config"]
            name, value, local = call.args
            assert local.val.boolval is False
            found.append(("SET", name.val.sval, value.val.sval))
    return found


# --- snapshots --------------------------------------------------------------------------------------------------------


def test_equal_snapshots_are_one_object() -> None:
    first = Settings.of([("TimeZone", "UTC"), ("work_mem", "1MB")])
    assert Settings.of([("work_mem", "1MB"), ("timezone", "UTC")]) is first
    assert Settings.of([("work_mem", "2MB"), ("timezone", "UTC")]) is not first
    assert Settings.of([]) is NO_SETTINGS


def test_of_equal_names_the_last_counts() -> None:
    assert Settings.of([("timezone", "UTC"), ("TIMEZONE", "Europe/Oslo")]).items == (("timezone", "Europe/Oslo"),)


def test_snapshot_that_nobody_holds_is_forgotten() -> None:
    snapshot = Settings.of([("application_name", "held by nobody")])
    key = snapshot.items
    assert key in Settings._interned
    del snapshot
    gc.collect()
    assert key not in Settings._interned


def test_repr_names_settings_without_values() -> None:
    assert repr(Settings.of([("app.token", "hunter2")])) == "<Settings app.token>"


def test_names_with_a_dot_are_custom() -> None:
    assert Settings.of([(name, "x") for name in ("work_mem", "App.Tenant", "a.b.c")]).customs == {"app.tenant", "a.b.c"}
    assert NO_SETTINGS.customs == frozenset()


# --- replay -----------------------------------------------------------------------------------------------------------


def test_replay_from_unknown_resets_everything_first() -> None:
    assert replay(None, NO_SETTINGS) == b"RESET ALL"
    wanted = Settings.of([("work_mem", "1MB")])
    assert replay(None, wanted) == b"RESET ALL;SELECT pg_catalog.set_config('work_mem','1MB',false)"


def test_replay_from_known_sends_only_the_difference() -> None:
    current = Settings.of([("timezone", "UTC"), ("work_mem", "1MB"), ("datestyle", "ISO")])
    wanted = Settings.of([("timezone", "UTC"), ("work_mem", "2MB"), ("jit", "off")])
    assert read_back(replay(current, wanted)) == [
        ("RESET", "datestyle"),
        ("SET", "jit", "off"),
        ("SET", "work_mem", "2MB"),
    ]


def test_replay_of_the_same_is_empty() -> None:
    same = Settings.of([("work_mem", "1MB")])
    assert replay(same, same) == b""
    assert replay(NO_SETTINGS, NO_SETTINGS) == b""


def test_replay_back_to_nothing_resets_each_name() -> None:
    assert replay(Settings.of([("work_mem", "1MB")]), NO_SETTINGS) == b'RESET "work_mem"'


def test_search_path_stays_a_list() -> None:
    # SET search_path = 'a, b' would make one schema's name of it; set_config takes it as the StartupMessage does.
    assert assign([("search_path", "a, b")]) == b"SELECT pg_catalog.set_config('search_path','a, b',false)"


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        ("it's", b"'it''s'"),
        ("a\\b", b"'a\\b'"),
        ("'; DROP TABLE t; --", b"'''; DROP TABLE t; --'"),
        ("\\'", b"'\\'''"),
        ("é", b"U&'\\+0000e9'"),
        ("é\\'", b"U&'\\+0000e9\\\\'''"),
        ("\U0001f600", b"U&'\\+01f600'"),
        ("", b"''"),
        ("two\nlines", b"'two\nlines'"),
    ],
)
def test_values_are_quoted(value: str, literal: bytes) -> None:
    sql = assign([("application_name", value)])
    assert sql == b"SELECT pg_catalog.set_config('application_name'," + literal + b",false)"
    assert read_back(sql) == [("SET", "application_name", value)]


@pytest.mark.parametrize("name", ["app.tenant", 'we"ird.name', "app.it's", "a.b.c"])
def test_names_with_dots_and_quotes_are_quoted(name: str) -> None:
    held = Settings.of([(name, "x")])
    assert read_back(replay(NO_SETTINGS, held)) == [("SET", name, "x")]
    assert read_back(replay(held, NO_SETTINGS)) == [("RESET", name)]


@given(strategies.dictionaries(TEXT, TEXT, min_size=1, max_size=4))
def test_any_value_survives_replay_as_it_is(pairs: dict[str, str]) -> None:
    wanted = Settings.of(pairs.items())
    # The grammar's own parser is the judge: what it reads is what was meant, whatever the bytes are.
    assert read_back(replay(None, wanted)) == [("ALL",), *(("SET", *pair) for pair in wanted.items)]


@given(strategies.dictionaries(TEXT, strategies.tuples(TEXT, strategies.booleans()), min_size=1, max_size=4))
def test_any_value_survives_restore_as_it_is(lost: dict[str, tuple[str, bool]]) -> None:
    (raw,) = parse_sql(restore(lost).decode("ascii"))
    statement: Any = raw.stmt
    (values,) = statement.fromClause
    rows = [tuple(cell.val for cell in row) for row in values.subquery.valuesLists]
    assert {name.sval: (value.sval, local.boolval) for name, value, local in rows} == lost


# --- ledger -----------------------------------------------------------------------------------------------------------


def answer(ledger: Ledger, found: dict[str, str], *held: str) -> bool | None:
    """Tell a ledger that has asked what the server says; return whether all of it can be carried."""
    for name, value in {**found, **{f".{reason}": "" for reason in held}}.items():
        assert ledger.heard(name.encode(), value.encode(), "utf-8") is None
    return ledger.heard(b"", b"", "utf-8")


@pytest.mark.parametrize(
    ("effect", "name", "reason", "scarred"),
    [
        (Effect.PREPARE, "mine", "prepared_statement", False),
        (Effect.HOLD_CURSOR, "c", "hold_cursor", False),
        (Effect.SESSION_STATE, "setseed", "session_state", True),
    ],
)
def test_effect_pins(effect: Effect, name: str, reason: str, scarred: bool) -> None:
    ledger = Ledger(NO_SETTINGS)
    assert ledger.apply([(effect, name)]) == [reason]
    assert ledger.pins == {reason: name}
    assert ledger.scarred is scarred
    assert ledger.apply([(effect, "another")]) == []  # a reason counts once
    assert ledger.pins == {reason: name}


def test_every_effect_either_pins_or_takes_away() -> None:
    for effect in set(Effect) - {
        Effect.SETTING_LOCAL,
        Effect.EXECUTE,
        Effect.EXPLAIN,
        Effect.FETCH,
        Effect.LIST_STATEMENTS,
        Effect.TRANSACTION_ID,
        Effect.AT_BIND,
        Effect.DISCARD_PLANS,
    }:  # they leave nothing behind
        reasons = Ledger(NO_SETTINGS).apply([(effect, "x.y")])
        takes_away = effect.name in (
            "SETTING",
            "SETTING_INSIDE",
            "RESET",
            "RESET_LOCAL",
            "DEALLOCATE",
            "DISCARD_ALL",
            "CLOSE",
            "UNLISTEN",
        )
        assert bool(reasons) is not takes_away, effect


def test_what_a_function_sets_is_unsure_until_the_transaction_ends() -> None:
    ledger = Ledger(NO_SETTINGS)
    ledger.apply([(Effect.SETTING_INSIDE, "datestyle")])
    assert (ledger.context, ledger.touched) == (None, set())
    ledger.ended()
    assert ledger.context is NO_SETTINGS.parsing
    ledger.apply([(Effect.SETTING_INSIDE, "app.tenant")])
    assert ledger.touched == {"app.tenant"}


def test_several_effects_of_one_text_pin_once_each() -> None:
    ledger = Ledger(NO_SETTINGS)
    effects = [(Effect.HOLD_CURSOR, "a"), (Effect.PREPARE, "a"), (Effect.HOLD_CURSOR, "b")]
    assert ledger.apply(effects) == ["hold_cursor", "prepared_statement"]


def test_settings_are_touched_until_they_are_read_back() -> None:
    ledger = Ledger(Settings.of([("timezone", "UTC"), ("jit", "off")]))
    assert ledger.apply([(Effect.SETTING, "work_mem"), (Effect.RESET, "jit")]) == []
    assert ledger.touched == {"work_mem", "jit"}
    assert ledger.ask() == {"work_mem", "jit"}
    assert answer(ledger, {"work_mem": "5MB"})
    assert ledger.settings is Settings.of([("timezone", "UTC"), ("work_mem", "5MB"), ("jit", "off")])
    assert not ledger.as_asked, "set_config() with a null has reset what the client connected with"
    assert ledger.startup is Settings.of([("timezone", "UTC"), ("jit", "off")])


def test_reset_all_touches_every_setting_of_the_session() -> None:
    ledger = Ledger(Settings.of([("timezone", "UTC")]))
    ledger.apply([(Effect.SETTING, "work_mem")])
    ledger.ask()
    answer(ledger, {"work_mem": "5MB"})
    ledger.apply([(Effect.RESET, "all")])
    assert ledger.touched == {"timezone", "work_mem"}


def test_reset_all_touches_what_is_being_read_back() -> None:
    """SET, then DISCARD ALL before the answer is there: the answer is too old by then."""
    ledger = Ledger(NO_SETTINGS)
    ledger.apply([(Effect.SETTING, "datestyle")])
    ledger.ask()
    ledger.apply([(Effect.DISCARD_ALL, "")])
    answer(ledger, {"datestyle": "German, DMY"})
    assert ledger.ask() == {"datestyle"}
    answer(ledger, {})
    assert ledger.settings is NO_SETTINGS


@pytest.mark.parametrize(
    ("name", "value", "carried"),
    [
        ("work_mem", "5MB", True),
        ("statement_timeout", "0", True),
        ("statement_timeout", "30s", True),
        ("statement_timeout", "5ms", False),
        ("statement_timeout", "1500ms", False),
        ("transaction_timeout", "1h", False),
        ("idle_session_timeout", "1min", False),
        ("default_transaction_deferrable", "on", False),
        ("default_transaction_deferrable", "off", True),
    ],
)
def test_settings_under_which_nobody_else_could_work_stay_behind(name: str, value: str, carried: bool) -> None:
    ledger = Ledger(NO_SETTINGS)
    ledger.apply([(Effect.SETTING, name)])
    ledger.ask()
    assert answer(ledger, {name: value}) is carried


@pytest.mark.parametrize("effect", [Effect.SETTING, Effect.SETTING_LOCAL])
def test_custom_setting_is_asked_for_even_if_it_was_local(effect: Effect) -> None:
    """It reads '' instead of NULL afterwards, rolled back or not."""
    ledger = Ledger(NO_SETTINGS)
    assert ledger.apply([(effect, "app.tenant")]) == []
    assert ledger.tainted
    assert ledger.ask() == {"app.tenant"}
    assert answer(ledger, {"app.tenant": ""})
    assert ledger.settings.customs == {"app.tenant"}
    assert not ledger.tainted and not ledger.pins


@pytest.mark.parametrize("effect", [Effect.SETTING, Effect.SETTING_LOCAL, Effect.RESET, Effect.RESET_LOCAL])
def test_settings_that_shape_a_parse_are_unknown_until_they_are_read_back(effect: Effect) -> None:
    ledger = Ledger(Settings.of([("datestyle", "German"), ("work_mem", "1MB")]))
    assert ledger.context is Settings.of([("datestyle", "German")])
    ledger.apply([(effect, "work_mem")])
    assert ledger.context is not None
    ledger.apply([(effect, "datestyle")])
    assert ledger.context is None
    ledger.ended()
    if ledger.touched >= {"datestyle"}:
        assert ledger.context is None
        ledger.ask()
        ledger.ended()
        assert ledger.context is None
        answer(ledger, {"datestyle": "ISO"})
        assert ledger.context is None, "what was sent meanwhile may have changed it for its transaction"
        ledger.ended()
        assert ledger.context is Settings.of([("datestyle", "ISO")])
    else:
        assert ledger.context is Settings.of([("datestyle", "German")])


@pytest.mark.parametrize("effect", [(Effect.RESET, "all"), (Effect.DISCARD_ALL, "")])
def test_reset_all_and_discard_all_lose_every_startup_setting(effect: tuple[Effect, str]) -> None:
    ledger = Ledger(Settings.of([("timezone", "UTC"), ("jit", "off")]))
    assert ledger.apply([effect]) == []
    assert ledger.lost == {"timezone": ("UTC", False), "jit": ("off", False)}


def test_reset_of_one_name_loses_that_name_once() -> None:
    ledger = Ledger(Settings.of([("timezone", "UTC"), ("jit", "off")]))
    ledger.apply([(Effect.RESET, "timezone"), (Effect.RESET, "timezone"), (Effect.RESET, "work_mem")])
    assert ledger.lost == {"timezone": ("UTC", False)}
    ledger.apply([(Effect.RESET_LOCAL, "jit")])
    assert ledger.lost == {"timezone": ("UTC", False), "jit": ("off", True)}


@pytest.mark.parametrize("effect", [Effect.DISCARD_ALL, Effect.DEALLOCATE, Effect.CLOSE, Effect.UNLISTEN, Effect.RESET])
def test_what_takes_away_loosens_the_pins_and_ends_none(effect: Effect) -> None:
    ledger = Ledger(NO_SETTINGS)
    ledger.apply([(effect, "x")])
    assert not ledger.loosened
    ledger.apply([(Effect.PREPARE, "mine"), (effect, "x")])
    assert ledger.loosened
    assert ledger.pins == {"prepared_statement": "mine"}


def test_pins_end_when_the_server_holds_nothing() -> None:
    ledger = Ledger(NO_SETTINGS)
    ledger.apply([(Effect.PREPARE, "p"), (Effect.HOLD_CURSOR, "c"), (Effect.SESSION_STATE, "setseed")])
    ledger.apply([(Effect.DEALLOCATE, "p")])
    ledger.ask()
    answer(ledger, {}, "hold_cursor")
    assert ledger.pins == {"hold_cursor": "c", "session_state": "setseed"}


def test_pin_that_came_up_again_after_the_question_stays() -> None:
    ledger = Ledger(NO_SETTINGS)
    ledger.apply([(Effect.PREPARE, "p"), (Effect.DEALLOCATE, "p")])
    ledger.ask()
    ledger.apply([(Effect.PREPARE, "q"), (Effect.DEALLOCATE, "q")])
    answer(ledger, {})
    assert list(ledger.pins) == ["prepared_statement"]
    assert ledger.loosened  # the server is asked again


def test_pin_of_a_setting_ends_when_its_value_can_be_carried() -> None:
    ledger = Ledger(NO_SETTINGS)
    ledger.pin("setting", "statement_timeout")
    for name, value in (("statement_timeout", "5ms"), ("work_mem", "1MB")):  # the timeout still stands
        ledger.apply([(Effect.SETTING, name)])
        ledger.ask()
        assert not answer(ledger, {name: value})
    assert "setting" in ledger.pins
    ledger.apply([(Effect.RESET, "statement_timeout")])
    ledger.ask()
    assert answer(ledger, {})
    assert not ledger.pins


# --- login ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge() -> Filter:
    return Filter()


def test_no_parameters_are_no_settings(judge: Filter) -> None:
    assert vet({}, judge) is NO_SETTINGS
    assert vet({"replication": "false"}, judge) is NO_SETTINGS
    assert vet({"options": ""}, judge) is NO_SETTINGS


@pytest.mark.parametrize(
    "parameters",
    [{"work_mem": "1MB", "options": "-c work_mem=2MB"}, {"options": "-c work_mem=2MB", "work_mem": "1MB"}],
    ids=["before", "behind"],
)
def test_parameter_of_its_own_beats_options_whatever_the_order(judge: Filter, parameters: dict[str, str]) -> None:
    assert vet(parameters, judge).items == (("work_mem", "1MB"),)


def test_of_equal_names_in_options_the_last_counts(judge: Filter) -> None:
    assert vet({"options": "-c work_mem=1MB --work-mem=2MB"}, judge).items == (("work_mem", "2MB"),)


def test_options_keep_escaped_spaces(judge: Filter) -> None:
    assert vet({"options": r"-c application_name=a\ b\\c"}, judge).items == (("application_name", r"a b\c"),)


@pytest.mark.parametrize("options", ["-d 5", "work_mem=1MB", "-c", "-c work_mem", "--", "-c =x", "-B 100"])
def test_options_that_are_no_settings_are_refused(judge: Filter, options: str) -> None:
    with pytest.raises(LoginRefusedError) as caught:
        vet({"options": options}, judge)
    assert str(caught.value) == 'invalid startup parameter "options"'
    assert "-c name=value" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "value", "sqlstate"),
    [
        ("default_transaction_read_only", "off", "25006"),
        ("transaction_read_only", "off", "25006"),
        ("Default_Transaction_Read_Only", "OFF", "25006"),
        ("session_replication_role", "replica", "42501"),
        ("role", "postgres", "42501"),
        ("session_authorization", "postgres", "42501"),
        ("standard_conforming_strings", "off", "42501"),
        ("client_encoding", "SJIS", "42501"),
        ("local_preload_libraries", "evil", "42501"),
        ("search_path", "public, pg_catalog", "42501"),
        ("no_such_setting", "1", "42501"),
    ],
)
@pytest.mark.parametrize("where", ["parameter", "options"])
def test_setting_that_no_client_may_have_is_refused(
    judge: Filter, name: str, value: str, sqlstate: str, where: str
) -> None:
    escaped = value.replace(" ", "\\ ")
    with pytest.raises(LoginRefusedError) as caught:
        vet({name: value} if where == "parameter" else {"options": f"-c {name}={escaped}"}, judge)
    error = caught.value
    assert error.sqlstate == sqlstate
    assert "(rule: " in error.detail
    assert error.reason is CloseReason.CLIENT_LOGIN_REFUSED
    assert not error.transient


def test_refused_setting_in_options_is_not_hidden_by_a_good_one_outside(judge: Filter) -> None:
    parameters = {"options": "-c transaction_read_only=off", "transaction_read_only": "on"}
    with pytest.raises(LoginRefusedError):
        vet(parameters, judge)


@pytest.mark.parametrize("value", ["on", "true", "1", "yes", "database", "", "maybe"])
def test_replication_is_refused(judge: Filter, value: str) -> None:
    with pytest.raises(LoginRefusedError) as caught:
        vet({"replication": value}, judge)
    assert caught.value.sqlstate == "0A000"


@pytest.mark.parametrize("value", ["off", "OFF", "false", "no", "0"])
def test_replication_that_is_off_is_no_setting(judge: Filter, value: str) -> None:
    assert vet({"replication": value}, judge) is NO_SETTINGS


@pytest.mark.parametrize(
    "parameters",
    [
        {"application_name": "caf\udce9"},
        {"app.\udcff": "x"},
        {"options": "-c application_name=caf\udce9"},
    ],
)
def test_parameters_that_are_not_utf8_are_refused(judge: Filter, parameters: dict[str, str]) -> None:
    with pytest.raises(LoginRefusedError) as caught:
        vet(parameters, judge)
    assert caught.value.sqlstate == "22021"


# --- greetings --------------------------------------------------------------------------------------------------------


class Nobody:
    def open(self, pool: Pool) -> None:
        raise AssertionError("a greeting opens nothing")

    probe = open


def pool() -> Pool:
    return Pool("shop", PoolLimits(), Nobody(), Stats(), lambda: 1.0)


def named(name: str, *more: tuple[str, str]) -> Settings:
    return Settings.of([("application_name", name), *more])


REPORTED = {"application_name": "psql", "TimeZone": "UTC", "server_version": "17.0"}


def test_clients_that_differ_only_in_application_name_share_a_greeting() -> None:
    known = pool()
    assert known_greeting(known, named("psql")) is None
    remember_greeting(known, named("psql"), REPORTED)
    assert known_greeting(known, named("psql")) == REPORTED
    assert known_greeting(known, named("report 7")) == {**REPORTED, "application_name": "report 7"}
    assert known_greeting(known, NO_SETTINGS) == {**REPORTED, "application_name": ""}
    assert known_greeting(known, named("psql", ("timezone", "Europe/Oslo"))) is None


@pytest.mark.parametrize("name", ["café", "tab\there", "x" * 64])
def test_name_that_the_server_would_change_is_asked_for(name: str) -> None:
    # clean_ascii() and NAMEDATALEN: the server reports something else than what was sent.
    known = pool()
    remember_greeting(known, named("psql"), REPORTED)
    assert known_greeting(known, named(name)) is None


def test_greetings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "MAX_GREETINGS", 10)
    known = pool()
    kept = [named("x", ("work_mem", f"{number}MB")) for number in range(1, 100)]
    for settings in kept:
        remember_greeting(known, settings, REPORTED)
    assert 10 <= len(known.greetings) <= 11


def test_remembered_greeting_is_not_overwritten() -> None:
    known = pool()
    remember_greeting(known, NO_SETTINGS, {"TimeZone": "UTC"})
    remember_greeting(known, NO_SETTINGS, {"TimeZone": "Europe/Oslo"})
    assert known.greetings[NO_SETTINGS]["TimeZone"] == "UTC"
