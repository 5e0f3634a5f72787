"""The tables of keys say what the models say: every key, its limits, its default, and a meaning in words."""

import sys
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "hooks"))

from keys import KEYS, document_model, undocumented


class Inner(BaseModel):
    """What is inside."""

    kind: Literal["inner"] = "inner"
    share: float = Field(default=0.5, gt=0, le=1)  # of the <whole>


class Outer(BaseModel):
    """What is outside."""

    name: str
    inner: Inner = Inner()
    sizes: tuple[int, ...] = Field(default=(1, 2), min_length=1)  # in `a < b` pixels
    limit: int | None = None


def test_a_table_has_each_key_with_type_limits_default_and_meaning():
    text = document_model(Outer, title="")
    assert "| `name` | text | **required** |  |" in text
    assert "| `inner` | [`inner`](#keys-inner) | `kind: inner` | What is inside. |" in text
    assert "| `sizes` | list of whole number, at least 1 of them | `[1, 2]` | In `a < b` pixels |" in text
    assert "| `limit` | whole number | left out |  |" in text
    assert "### `inner`, `kind: inner` { #keys-inner }" in text
    assert "| `share` | number, above 0, at most 1 | `0.5` | Of the &lt;whole> |" in text
    assert "| `kind` |" not in text


def test_a_model_that_another_page_describes_is_linked_and_not_repeated():
    text = document_model(Outer, title="", elsewhere={Inner: "other.md#keys-inner"})
    assert "[`inner`](other.md#keys-inner)" in text
    assert "{ #keys-inner }" not in text


def test_keys_without_words_are_found():
    assert undocumented(Outer) == ["Outer.name", "Outer.limit"]


@pytest.mark.parametrize("page", KEYS)
def test_every_key_that_people_write_has_words(page: str):
    assert [key for model, _ in KEYS[page] for key in undocumented(model)] == []
