"""What is known of a key beside its default: form, meaning, environment variable, and what looks at it again."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field
from enum import Enum
from typing import Any

from proxy.config.values import Form


class Again(Enum):
    """When SideCart looks again at what a key names. The key itself counts from the next start on."""

    NEVER = ""
    """It names nothing that could change."""
    SIGHUP = "Opened again on SIGHUP."
    CHANGE = "Read again when it changes, and on SIGHUP."
    CONNECTION = "Asked for each new connection."
    REFUSED = "Asked once, then again where the server refuses it, and on SIGHUP."


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Hold what is known of one key beside its default."""

    form: Form
    meaning: str
    """The line beside it in config.yaml, without the backticks, and the beginning of what the manual says."""
    more: str
    """What the manual says beside it, in sentences."""
    variable: str
    """The short name of its environment variable; empty: it has the long one only."""
    secret: bool
    again: Again


def key(
    form: Form,
    default: Any = MISSING,
    *,
    meaning: str,
    more: str = "",
    variable: str = "",
    secret: bool = False,
    again: Again = Again.NEVER,
) -> Any:
    """Declare one key; without a default it is required."""
    known = Key(form=form, meaning=meaning, more=more, variable=variable, secret=secret, again=again)
    return field(default=default, repr=not secret, metadata={"key": known})


def key_of(item: Field[Any]) -> Key:
    """Return what is known of the key that a field of a section is."""
    found: Key = item.metadata["key"]
    return found
