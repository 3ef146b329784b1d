"""Judge what the values of a Bind give to set_config: the text of its statement does not say it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from proxy.sql import refusals, settings
from proxy.sql.literals import NAMEDATALEN
from proxy.sql.tables import Refused
from proxy.sql.verdict import AtBind, Effect

NAME: Final = 19
"""OID of the type name (pg_type.dat), which cuts off what it is given."""
TEXTS: Final = frozenset({0, 25, 1043, NAME, 705})
"""OIDs of what a parameter may be that set_config takes: not given, text, varchar, name, unknown (pg_type.dat).

The values of all of them are the same bytes in both formats.
"""


def check_types(calls: Sequence[AtBind], types: Sequence[int]) -> None:
    """Refuse other types for the parameters of set_config. `types` are the Parse's. Raises Refused."""
    for call in calls:
        for given in call[:2]:
            if isinstance(given, int) and given <= len(types) and types[given - 1] not in TEXTS:
                raise Refused(
                    refusals.function(
                        "setting-value",
                        "set_config",
                        f"The parameter ${given} is of another type than text, varchar or name",
                    )
                )


def effects(
    calls: Sequence[AtBind], types: Sequence[int], values: Sequence[bytes | None], codec: str
) -> list[tuple[Effect, str]]:
    """Return what the calls change with these values. Raises Refused.

    A call that fails in any case changes nothing: without a name, or where the Bind has too few values.
    """
    found: list[tuple[Effect, str]] = []
    for call in calls:
        if any(isinstance(given, int) and given > len(values) for given in call[:2]):
            continue
        name, value = (_text(given, types, values, codec) for given in call[:2])
        if name is None:
            continue
        if not name.isascii():
            raise Refused(refusals.function("setting-name", "set_config", "The name of the setting has to be ASCII"))
        folded = settings.fold(name)
        resets = call.resets or (isinstance(call.value, int) and value is None)
        refusal = settings.refuse_reset(folded) if resets else settings.refuse_value(folded, value)
        if refusal is not None:
            raise Refused(refusal)
        effect_of = settings.effect_of_reset if resets else settings.effect_of_value
        found += effect_of(folded, local=call.local)
    return found


def _text(given: str | int | None, types: Sequence[int], values: Sequence[bytes | None], codec: str) -> str | None:
    """Return an argument as the server reads it; None for NULL, and for what SQL computes. Raises Refused."""
    if not isinstance(given, int):
        return given
    value = values[given - 1]
    if value is None:
        return None
    type_ = types[given - 1] if given <= len(types) else 0
    try:
        text = value.decode(codec)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text or (type_ == NAME and (len(value) >= NAMEDATALEN or not text.isascii())):
        raise Refused(
            refusals.function("setting-value", "set_config", f"The value of ${given} is not what the server would read")
        )
    return text
