"""Frozen values and how they are read; what is wrong is named by the key as it stands in the file."""

import difflib
import re
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from consilia.errors import PlanError

Model = TypeVar("Model", bound=BaseModel)


class Frozen(BaseModel):
    """A value that is read once from YAML and never changes; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def validate(model: type[Model], content: Mapping[str, Any], *, where: str) -> Model:
    """Read `content` into `model`.

    Raises:
        PlanError: One line for each key that is wrong, with `where` and a near match for an unknown key or value.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [_describe(model, item) for item in error.errors(include_url=False)]
        raise PlanError("\n".join(f"{where}: {line}" for line in dict.fromkeys(lines))) from None


def near_match(word: str, choices: Sequence[str]) -> str:
    """Return " Did you mean 'x'?" for the choice most like `word`, or "" if none is."""
    matches = difflib.get_close_matches(word, choices, n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def _describe(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    location = error["loc"]
    parts, known = _follow(model, location)
    if error["type"] == "extra_forbidden":
        _, known = _follow(model, location[:-1])
        unknown = ".".join(parts)
        return f"unknown key {unknown!r}.{near_match(parts[-1], known)} Known keys: {', '.join(known)}."
    key = ".".join(parts) or "the whole"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{key} is missing."
    if error["type"] == "union_tag_not_found":
        return f"{key}.kind is missing."
    if error["type"] == "union_tag_invalid":
        found, known = error["ctx"]["tag"], error["ctx"]["expected_tags"]
        return f"{key}.kind must be one of {known}, but got {found!r}.{near_match(str(found), _quoted(known))}"
    if error["type"] == "value_error":
        return f"{key}: {message}"
    line = f"{key}: {message}, but got {error['input']!r}"
    near = (
        near_match(str(error["input"]), _quoted(error["ctx"]["expected"])) if error["type"] == "literal_error" else ""
    )
    return f"{line}.{near}" if near else line


def _quoted(listed: str) -> list[str]:
    """Return the texts of pydantic's "'a', 'b' or 'c'"."""
    return re.findall(r"'([^']*)'", listed)


def _follow(annotation: Any, location: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Follow pydantic's `location` from a type to what lies there.

    Returns:
        The keys as they stand in the file: pydantic also names the member of a union, which no file holds. And the
        fields of the model where the location ends, sorted.
    """
    if get_origin(annotation) is Annotated:
        return _follow(get_args(annotation)[0], location)
    if get_origin(annotation) in (Union, UnionType):
        members = [each for each in get_args(annotation) if each is not type(None)]
        if len(members) == 1 or not location:
            return _follow(members[0], location)
        kinds = [each for each in members if _is_model(each) and each.model_fields["kind"].default == location[0]]
        return _follow(kinds[0] if kinds else None, location[1:])
    if not location:
        return [], sorted(annotation.model_fields) if _is_model(annotation) else []
    parts, known = _follow(_below(annotation, location[0]), location[1:])
    return [str(location[0]), *parts], known


def _below(annotation: Any, part: Any) -> Any:
    """Return the type of a model's field, a mapping's values or a sequence's items; None if there is none."""
    if _is_model(annotation):
        field = annotation.model_fields.get(part)
        return field.annotation if field else None
    arguments = get_args(annotation)
    return arguments[get_origin(annotation) is dict] if arguments else None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
