"""config.yaml and the environment become one `Config`; what is wrong in them is named where it stands.

Pure: the caller reads the file and hands over its text. Precedence: `SIDECART_<SECTION>_<KEY>`, then the short names of
`ENVIRONMENT_NAMES`, then the file, then the default. An empty variable counts as not set (compose files pass those on).
"""

from __future__ import annotations

import difflib
import os.path
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Final

import yaml

from proxy.config import values as v
from proxy.config.keys import Key, key_of
from proxy.config.schema import (
    ENVIRONMENT_NAMES,
    PASSWORD_SOURCES,
    RULE_METHODS,
    SECTIONS,
    Auth,
    AuthRule,
    Config,
    Database,
    Listen,
    PoolLimits,
    Upstream,
)
from proxy.errors import ConfigError

# Kubernetes gives every pod variables for each Service of its namespace; a Service named `sidecart-metrics` makes
# SIDECART_METRICS_PORT=tcp://10.0.0.1:9632 and others like it. They are not ours.
_SERVICE_LINK_NAME = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
_SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")

_HARMLESS = re.compile(r"[\w.,:/+ -]{0,60}")
_OF_A_RULE: Final = ("from", "database", "user", "method")
DATABASES: Final = "databases"
"""The section whose keys are names of databases."""


@dataclass(frozen=True, slots=True)
class _Value:
    """One value as it was written: its text or its YAML node, and where, as the start of an error line."""

    text: str
    where: str
    folder: str = ""  # relative paths are relative to this; empty: leave them as they are
    node: yaml.Node | None = None  # of what is no single text
    source: str = ""  # of the node: the file; empty: the environment

    def inside(self, node: yaml.Node, name: str) -> str:
        """Say where a part of this value stands."""
        return f"{self.source}, line {node.start_mark.line + 1}: {name}" if self.source else f"{self.where}: {name}"


_Values = dict[tuple[str, str], _Value]


def load(text: str | None, environ: Mapping[str, str], *, source: str = "config.yaml") -> Config:
    """Build the configuration from the file's text (None: no file) and the environment.

    `source` is the file's path: errors name it, and relative paths in the file are relative to its folder.
    Raises ConfigError with every problem found, one a line. No error text holds a secret.
    """
    problems: list[str] = []
    values = _from_file(text, source, problems) if text is not None else {}
    values |= _from_environment(environ, problems)

    sections: dict[str, Any] = {}
    for name, kind in SECTIONS.items():
        before = len(problems)
        given = _section(name, values, problems)
        if len(problems) == before:
            sections[name] = kind(**given)
    _check_together(sections, values, problems)
    databases = values.get((DATABASES, ""))
    if databases is not None and "upstream" in sections and "pool" in sections:
        sections[DATABASES] = _databases(databases, sections["upstream"], sections["pool"], problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return Config(**sections)


def _section(name: str, values: _Values, problems: list[str]) -> dict[str, Any]:
    """Read what is given of a section; say what is wrong, and what is missing."""
    given: dict[str, Any] = {}
    for item in fields(SECTIONS[name]):
        value, key = values.get((name, item.name)), key_of(item)
        right = value is None or _put(given, item.name, value, key, problems)
        if right and item.default is MISSING and not given.get(item.name):
            problems.append(
                f"{name}.{item.name} is required: set it in the file, or as {key.variable} in the environment"
            )
    if name == "pool":
        given.setdefault("min_pool_size", _kept_warm(given, PoolLimits()))
    return given


def _kept_warm(given: Mapping[str, Any], usual: PoolLimits) -> int:
    """Return the usual min_pool_size: who asks for a pool of one wants no lecture about the two that are kept warm."""
    size: int = given.get("default_pool_size", usual.default_pool_size)
    return min(usual.min_pool_size, size)


def _put(given: dict[str, Any], name: str, value: _Value, key: Key, problems: list[str]) -> bool:
    """Read the value of a key; return whether it was right."""
    try:
        given[name] = _read(value, key, problems)
    except ValueError as error:
        problems.append(f"{value.where}: must be {error}{_shown(value, key)}")
        return False
    return True


def _read(value: _Value, key: Key, problems: list[str]) -> Any:
    form = key.form
    if form.read is None:
        return _users(value, problems) if form is v.USERS else _rules(value, problems)
    result = form.read(value.text)
    if form.is_path and result and value.folder:
        return os.path.join(value.folder, result)
    return result


def _shown(value: _Value, key: Key) -> str:
    """Quote the wrong value, unless it is a secret or could hold one (a URL with a password given as the host)."""
    if key.secret or not _HARMLESS.fullmatch(value.text) or "://" in value.text:
        return ""
    return f"; it is {value.text!r}"


# --- what is no single text -------------------------------------------------------------------------------------------


def _users(value: _Value, problems: list[str]) -> tuple[tuple[str, str], ...]:
    """Read verifiers by user name. What stands there may be a password: it is never shown."""
    if not isinstance(value.node, yaml.MappingNode):
        raise ValueError("names of users, each with its SCRAM-SHA-256 verifier")
    users: dict[str, str] = {}
    for key, node in value.node.value:
        name = _word(key)
        where = value.inside(key, "auth.users")
        if not name or name in users:
            problems.append(f"{where}: a name of a user is {'there twice' if name else 'missing'}")
            continue
        try:
            users[name] = v.verifier(_word(node) or "")
        except ValueError as error:
            problems.append(f"{where}: the value of {name!a} must be {error}")
    return tuple(users.items())


def _rules(value: _Value, problems: list[str]) -> tuple[AuthRule, ...]:
    if not isinstance(value.node, yaml.SequenceNode):
        raise ValueError(f"a list of rules, each with {', '.join(_OF_A_RULE)}")
    rules = (_rule(value, number, node, problems) for number, node in enumerate(value.node.value, 1))
    return tuple(rule for rule in rules if rule is not None)


def _rule(value: _Value, number: int, node: yaml.Node, problems: list[str]) -> AuthRule | None:
    """Read a rule; None where something is wrong in it."""
    name = f"auth.rules[{number}]"
    where = value.inside(node, name)
    before = len(problems)
    found = {key: part for key, _, part in _pairs(node, value.source, name, _OF_A_RULE, problems, where)}
    networks: tuple[v.Network, ...] = ()
    try:
        networks = v.networks(_word(found["from"]) or "") if "from" in found else ()
    except ValueError as error:
        problems.append(f"{where}: from must be {error}")
    missing = [key for key in ("from", "method") if key not in found]
    problems += [f"{where}: {key} is missing; a rule has {', '.join(_OF_A_RULE)}" for key in missing]
    method = _word(found["method"]) if "method" in found else None
    if "method" in found and method not in RULE_METHODS:
        problems.append(f"{where}: method must be one of {', '.join(RULE_METHODS)}")
    databases, users = (_names(found.get(key), f"{where}: {key}", problems) for key in ("database", "user"))
    if len(problems) > before or method is None:
        return None
    rule = AuthRule(networks=networks, databases=databases, users=users, method=method)
    if method == "trust" and not rule.is_local:
        problems.append(
            f"{where}: trust is accepted from local and loopback only: else whoever reaches the port could read"
            " everything; use scram-sha-256 or cert"
        )
    return rule


def _names(node: yaml.Node | None, where: str, problems: list[str]) -> tuple[str, ...]:
    """Read a name or a list of names; none, or the word all, mean every name."""
    if node is None or _word(node) == v.ALL:
        return ()
    names = [_word(part) for part in (node.value if isinstance(node, yaml.SequenceNode) else [node])]
    if not names or not all(names):
        problems.append(f"{where} must be all, a name, or a list of names")
    return tuple(name for name in names if name)


def _databases(value: _Value, upstream: Upstream, pool: PoolLimits, problems: list[str]) -> Mapping[str, Database]:
    """Read where databases of other names are; what an entry does not say is as in `upstream` and `pool`."""
    if not isinstance(value.node, yaml.MappingNode):
        problems.append(f"{value.where}: {DATABASES} must hold names of databases, each with keys and values")
        return {}
    databases: dict[str, Database] = {}
    for name_node, node in value.node.value:
        name = _word(name_node) or ""
        title = f"{DATABASES}.{name}"
        where = value.inside(name_node, title)
        if not name or name in databases:
            problems.append(f"{where}: {'this name stands twice' if name else 'a name is missing'}")
            continue
        before = len(problems)
        given = {} if _is_null(node) else _of_database(value, node, title, where, problems)
        entry = databases[name] = _database(name, given, upstream, pool)
        if len(problems) == before:
            _check_upstream(entry.upstream, where, problems)
            _check_pool(entry.pool, where, problems)
    return databases


def _of_database(value: _Value, node: yaml.Node, title: str, where: str, problems: list[str]) -> dict[str, Any]:
    """Read what an entry says of its database: keys of `upstream` and of `pool`, and some of its own."""
    kinds = (Upstream, PoolLimits, Database)
    keys = {item.name: item for kind in kinds for item in fields(kind) if kind is not Database or item.metadata}
    given: dict[str, Any] = {}
    for key, here, part in _pairs(node, value.source, title, tuple(keys), problems, where):
        if _is_null(part):
            continue
        text = _word(part)
        if text is None:
            problems.append(f"{here}: must be a single value")
        else:
            _put(given, key, _Value(text, here, value.folder), key_of(keys[key]), problems)
    return given


def _database(name: str, given: Mapping[str, Any], upstream: Upstream, pool: PoolLimits) -> Database:
    """Make the entry of a name of what is given, and of `upstream` and `pool` where nothing is."""
    of_upstream = {item.name: getattr(upstream, item.name) for item in fields(Upstream)} | {"dbname": name}
    if given.keys() & {"user", *PASSWORD_SOURCES}:
        # One role's password is no other's: where an entry names either, it brings its own credentials.
        own = {"sslcert", "sslkey", *PASSWORD_SOURCES}
        of_upstream = {key: part for key, part in of_upstream.items() if key not in own}
    of_pool = asdict(pool) | {"min_pool_size": _kept_warm(given, pool)}
    return Database(
        upstream=Upstream(
            **{item.name: given.get(item.name, of_upstream.get(item.name, item.default)) for item in fields(Upstream)}
        ),
        pool=PoolLimits(**{key: given.get(key, part) for key, part in of_pool.items()}),
        max_client_conn=given.get("max_client_conn", 0),
    )


def _word(node: yaml.Node) -> str | None:
    """Return the text of a single value as it was written; None: it is none."""
    if isinstance(node, yaml.ScalarNode) and node.tag.startswith("tag:yaml.org,2002:") and not _is_null(node):
        return str(node.value)
    return None


# --- what has to fit together -----------------------------------------------------------------------------------------


def _check_together(sections: Mapping[str, Any], values: _Values, problems: list[str]) -> None:
    """Check keys that depend on each other, of the sections that are right in themselves."""

    def where(section: str, *keys: str) -> str:
        given = [values[section, key].where for key in keys if (section, key) in values]
        return given[0] if given else f"{section}.{keys[0]}"

    pool, listen, filter_ = (sections.get(name) for name in ("pool", "listen", "filter"))
    if pool:
        _check_pool(pool, where("pool", "min_pool_size", "default_pool_size"), problems)
    if "upstream" in sections:
        _check_upstream(sections["upstream"], where("upstream", *PASSWORD_SOURCES, "sslcert", "sslkey"), problems)
    if listen and bool(listen.tls_cert_file) != bool(listen.tls_key_file):
        place = where("listen", "tls_cert_file", "tls_key_file")
        problems.append(f"{place}: tls_cert_file and tls_key_file must be set together")
    if listen and "auth" in sections:
        _check_certificates(listen, sections["auth"], where, problems)
    both = sorted(set(filter_.allow_functions) & set(filter_.deny_functions)) if filter_ else []
    problems += [
        f"{where('filter', 'allow_functions')}: {name} stands in deny_functions too; remove it from one of them"
        for name in both
    ]


def _check_pool(pool: PoolLimits, where: str, problems: list[str]) -> None:
    if pool.min_pool_size > pool.default_pool_size:
        problems.append(
            f"{where}: min_pool_size ({pool.min_pool_size}) must not be larger than default_pool_size"
            f" ({pool.default_pool_size})"
        )


def _check_upstream(upstream: Upstream, where: str, problems: list[str]) -> None:
    sources = [key for key in PASSWORD_SOURCES if getattr(upstream, key)]
    if len(sources) > 1:
        problems.append(f"{where}: {' and '.join(sources)} are set; the password can come from one of them only")
    if bool(upstream.sslcert) != bool(upstream.sslkey):
        problems.append(f"{where}: sslcert and sslkey must be set together")
    if upstream.aws_iam and upstream.sslmode not in ("verify-ca", "verify-full"):
        problems.append(
            f"{where}: with aws_iam the token travels as a password: sslmode must be verify-full (or verify-ca), not"
            f" {upstream.sslmode}"
        )
    if upstream.channel_binding == "require" and upstream.sslmode == "disable":
        problems.append(f"{where}: channel_binding require needs TLS: sslmode must be other than disable")
    if upstream.sslnegotiation == "direct" and upstream.sslmode in ("disable", "allow", "prefer"):
        problems.append(
            f"{where}: sslnegotiation direct leaves no way back to plain text: sslmode must be require, verify-ca or"
            f" verify-full, not {upstream.sslmode}"
        )


def _check_certificates(listen: Listen, auth: Auth, where: Callable[..., str], problems: list[str]) -> None:
    if listen.tls == "verify" and not listen.tls_ca_file:
        problems.append(
            f"{where('listen', 'tls')}: verify needs listen.tls_ca_file, the CAs of the clients' certificates"
        )
    if listen.tls_crl_file and not listen.tls_ca_file:
        problems.append(
            f"{where('listen', 'tls_crl_file')}: it needs listen.tls_ca_file: without that no certificate is asked for"
        )
    if any(rule.method == "cert" for rule in auth.rules) and (listen.tls == "off" or not listen.tls_ca_file):
        problems.append(
            f"{where('auth', 'rules')}: the method cert needs listen.tls_ca_file, the CAs of the clients' certificates,"
            " and listen.tls other than off"
        )


# --- where values come from -------------------------------------------------------------------------------------------


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> _Values:
    values: _Values = {}
    for variable, place in ENVIRONMENT_NAMES.items():
        if environ.get(variable):
            values[place] = _Value(environ[variable], variable)
    for variable in sorted(environ):
        text = environ[variable]
        section, _, key = variable.removeprefix("SIDECART_").lower().partition("_")
        if variable == "SIDECART_DATABASES" and text:
            _take_text(text, DATABASES, "", variable, values, problems)
            continue
        if not variable.startswith("SIDECART_") or section not in SECTIONS or not text:
            continue
        if _SERVICE_LINK_NAME.search(variable) or _SERVICE_LINK_VALUE.match(text):
            continue
        if key in _keys(section):
            _take_text(text, section, key, variable, values, problems)
        else:
            problems.append(
                f"{variable}: there is no such setting{_nearest(section, key, 'SIDECART_{}_{}', str.upper)}"
            )
    return values


def _take_text(text: str, section: str, key: str, variable: str, values: _Values, problems: list[str]) -> None:
    """Take a value of the environment: a structure is given as YAML, such as {alice: SCRAM-SHA-256$…}."""
    if not _is_structure(section, key):
        values[section, key] = _Value(text, variable)
        return
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        problems.append(f"{variable}: this is not valid YAML")
        return
    if node is not None and not _is_null(node):
        values[section, key] = _Value("", variable, node=node)


def _is_structure(section: str, key: str) -> bool:
    """Whether a value is more than a text."""
    return section == DATABASES or _form(section, key).read is None


def _form(section: str, key: str) -> v.Form:
    return next(key_of(item).form for item in fields(SECTIONS[section]) if item.name == key)


def _from_file(text: str, source: str, problems: list[str]) -> _Values:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        # What stands in quotes is text of the file, and may be a piece of the password.
        problem = re.sub(r"'[^']*'|\"[^\"]*\"", "…", error.problem or "unreadable")
        raise ConfigError(
            f"{source}, line {line}: this is not valid YAML: {problem}; a value with special characters needs quotes"
        ) from None
    except yaml.YAMLError:
        raise ConfigError(f"{source}: this is not valid YAML: it holds control characters") from None
    if root is None or _is_null(root):
        return {}
    values: _Values = {}
    folder = os.path.dirname(source)
    for section, where, node in _pairs(root, source, "", (*SECTIONS, DATABASES), problems):
        if _is_null(node):
            continue
        if section == DATABASES:
            values[DATABASES, ""] = _Value("", where, folder, node, source)
            continue
        for key, key_where, value in _pairs(node, source, section, _keys(section), problems, where):
            if _is_structure(section, key) and not _is_null(value):
                values[section, key] = _Value("", key_where, folder, value, source)
            else:
                _take(value, section, key, key_where, folder, values, problems)
    return values


def _take(
    node: yaml.Node, section: str, key: str, where: str, folder: str, values: _Values, problems: list[str]
) -> None:
    if _is_null(node):
        return
    items = _form(section, key).items
    parts = node.value if isinstance(node, yaml.SequenceNode) and items else [node]
    if not all(isinstance(part, yaml.ScalarNode) and part.tag.startswith("tag:yaml.org,2002:") for part in parts):
        problems.append(f"{where}: must be {f'a list of {items}' if items else 'a single value'}")
        return
    # The text as written, not YAML 1.1's idea of it: `tls: off` is the word off, a password 0123 keeps its zero.
    values[section, key] = _Value(",".join(part.value for part in parts), where, folder)


def _pairs(
    node: yaml.Node, source: str, section: str, known: Sequence[str], problems: list[str], where: str = ""
) -> list[tuple[str, str, yaml.Node]]:
    """Return (key, where it stands, value) of a mapping's known keys; report everything else."""
    if not isinstance(node, yaml.MappingNode):
        inside = f"{section} must hold keys and values" if section else "the file must hold sections"
        problems.append(f"{where or f'{source}, line {node.start_mark.line + 1}'}: {inside}: {', '.join(known)}")
        return []
    found: dict[str, int] = {}
    pairs = []
    for key_node, value in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
        name = f"{section}.{key}" if section else key
        here = f"{source}, line {line}: {name}" if source else f"{where}.{key}"
        if key in found:
            problems.append(f"{here}: this key stands twice, first in line {found[key]}; remove one of them")
        elif key not in known:
            if section in SECTIONS:
                hint = _nearest(section, key, "{}.{}")
            else:
                hint = _nearest_of(known, key) if section else _nearest_section(key)
            problems.append(f"{here}: there is no such {'key' if section else 'section'}{hint}")
        else:
            pairs.append((key, here, value))
        found.setdefault(key, line)
    return pairs


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _keys(section: str) -> tuple[str, ...]:
    return tuple(item.name for item in fields(SECTIONS[section]))


def _nearest(section: str, key: str, form: str, case: Callable[[str], str] = str) -> str:
    """Name the key that was probably meant: of this section, else of another, else list what the section has."""

    def named(*place: str) -> str:
        return form.format(*(case(part) for part in place))

    elsewhere = [name for name in SECTIONS if key in _keys(name)]
    if close := difflib.get_close_matches(key, _keys(section), 1, 0.75):
        return f"; did you mean {named(section, close[0])}?"
    if elsewhere:
        return f"; did you mean {' or '.join(named(name, key) for name in elsewhere)}?"
    if close := difflib.get_close_matches(key, _keys(section), 1, 0.5):
        return f"; did you mean {named(section, close[0])}?"
    return f"; section {section} has {', '.join(_keys(section))}"


def _nearest_of(known: Sequence[str], key: str) -> str:
    if close := difflib.get_close_matches(key, known, 1, 0.6):
        return f"; did you mean {close[0]}?"
    return f"; there are {', '.join(known)}"


def _nearest_section(key: str) -> str:
    if close := difflib.get_close_matches(key, (*SECTIONS, DATABASES), 1, 0.6):
        return f"; did you mean {close[0]}?"
    if homes := [name for name in SECTIONS if key in _keys(name)]:
        return f"; the key {key} belongs into section {' or '.join(homes)}"
    return f"; the sections are {', '.join((*SECTIONS, DATABASES))}"
