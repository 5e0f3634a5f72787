"""A decision that a card needs: what is proposed, and why; and what has been decided."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a look at the data proposes for one decision."""

    key: str  # names the decision, such as "label-column"
    question: str  # in words
    value: str | None  # the proposal; None: the data do not say
    reason: str  # what was found
    certain: bool = False  # else a person is to confirm or correct it
    options: tuple[str, ...] = ()  # what may be answered; empty: any text


Decide = Callable[[Choice], str]
"""Answers a choice: takes the proposal, asks a person, or raises a UserError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """Keys of a card, and why they are so."""

    keys: Mapping[str, Any]
    why: Mapping[str, str] = field(default_factory=dict)  # by dotted key
    remarks: tuple[str, ...] = ()  # what a person must know

    def __or__(self, other: "Described") -> "Described":
        """Return both together; keys of `other` count where both have them."""
        return Described(
            keys={**self.keys, **other.keys},
            why={**self.why, **other.why},
            remarks=(*self.remarks, *other.remarks),
        )


def because(choice: Choice, answer: str) -> str:
    """Return why a choice was answered so."""
    return choice.reason if answer == choice.value else f"chosen; {choice.reason}"
