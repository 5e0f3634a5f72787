"""Tables of what a YAML file may say, made from the frozen models that read it: key, type, default and meaning.

The words come from where the key is declared: the comment beside or above it, else the docstring of the model in it.
"""

import ast
import inspect
import io
import json
import textwrap
import tokenize
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from consilia.config.card import DataCard
from consilia.config.recipe import EnsembleRecipe
from consilia.config.space import Hyperparameters, SearchSpace
from consilia.config.study import ClusterProfile, StudyPlan

Model = type[BaseModel]
KEYS: Mapping[str, tuple[tuple[Model, str], ...]] = {  # page: the models that read its files, with the heading of each
    "study-file.md": ((StudyPlan, ""),),
    "cards.md": ((DataCard, ""),),
    "search-spaces.md": ((SearchSpace, ""), (Hyperparameters, "parameters")),
    "recipes.md": ((EnsembleRecipe, ""),),
    "profiles.md": ((ClusterProfile, ""),),
}
_PLAIN = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", Any: "anything"}


def tables_of(page: str) -> list[str]:
    """Return the sections of a page; what another page describes is linked there."""
    elsewhere = {
        model: f"{other}#{_anchor(model)}" for other, models in KEYS.items() for model, _ in models if other != page
    }
    return [document_model(model, title=title, elsewhere=elsewhere) for model, title in KEYS[page]]


def document_model(model: Model, *, title: str, level: int = 2, elsewhere: Mapping[Model, str] | None = None) -> str:
    """Return a section with the model's table, and one for each model that its keys hold.

    Args:
        model: What a file, or a part of one, is read into.
        title: Heading of its section, such as "search.budget"; keys of models inside are appended to it.
        level: Of the heading.
        elsewhere: Models that another page describes, with a link to it.
    """
    return "\n\n".join(_sections(model, title=title, level=level, elsewhere=elsewhere or {}, done=set()))


def undocumented(model: Model) -> list[str]:
    """Return the keys of a model, and of those inside it, that nothing explains."""
    return [
        f"{each.__name__}.{name}"
        for each in _all_models(model)
        for name, field in each.model_fields.items()
        if not _is_kind(name, field) and not _meaning(each, name, field)
    ]


def _all_models(model: Model, seen: set[Model] | None = None) -> Iterator[Model]:
    seen = set() if seen is None else seen
    if model in seen:
        return
    seen.add(model)
    yield model
    for field in model.model_fields.values():
        for inner in _models_in(field.annotation):
            yield from _all_models(inner, seen)


def _sections(
    model: Model, *, title: str, level: int, elsewhere: Mapping[Model, str], done: set[Model]
) -> Iterator[str]:
    done.add(model)
    yield f"{'#' * level} {_heading(model, title)} {{ #{_anchor(model)} }}"
    yield _text(model)
    keys = [(name, field) for name, field in model.model_fields.items() if not _is_kind(name, field)]
    if keys:
        rows = [_row(model, name, field, elsewhere) for name, field in keys]
        yield "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])
    for name, field in keys:
        for inner in _models_in(field.annotation):
            if inner not in done and inner not in elsewhere:
                below = f"{title}.{name}" if title else name
                yield from _sections(inner, title=below, level=min(level + 1, 6), elsewhere=elsewhere, done=done)


def _heading(model: Model, title: str) -> str:
    kind = model.model_fields.get("kind")
    named = f"`{title}`" if title else "Keys"
    return f"{named}, `kind: {kind.default}`" if kind is not None and _is_kind("kind", kind) else named


def _row(model: Model, name: str, field: FieldInfo, elsewhere: Mapping[Model, str]) -> str:
    kinds = [_link(each, elsewhere) for each in _models_in(field.annotation)]
    allowed = _limits(field)
    cells = [
        f"`{name}`",
        _type(field.annotation, elsewhere) + (f", {allowed}" if allowed else ""),
        _default(field, has_models=bool(kinds)),
        _meaning(model, name, field),
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _type(annotation: Any, elsewhere: Mapping[Model, str]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = _words_of_limits(arguments[1:])
        return _type(arguments[0], elsewhere) + (f" ({limits})" if limits else "")
    if origin is Literal:
        return _either([f"`{each}`" for each in arguments])
    if origin in (Union, types.UnionType):
        return _either([_type(each, elsewhere) for each in arguments if each is not type(None)])
    if origin is tuple:
        return f"list of {_type(arguments[0], elsewhere)}"
    if origin is not None and issubclass(origin, Mapping):
        return f"mapping of {_type(arguments[0], elsewhere)} to {_type(arguments[1], elsewhere)}"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return _link(annotation, elsewhere)
    return _PLAIN.get(annotation, f"`{getattr(annotation, '__name__', annotation)}`")


def _link(model: Model, elsewhere: Mapping[Model, str]) -> str:
    kind = model.model_fields.get("kind")
    label = f"`{kind.default}`" if kind is not None and _is_kind("kind", kind) else "mapping"
    return f"[{label}]({elsewhere.get(model, f'#{_anchor(model)}')})"


def _either(words: list[str]) -> str:
    different = list(dict.fromkeys(words))
    return different[0] if len(different) == 1 else f"{', '.join(different[:-1])} or {different[-1]}"


def _limits(field: FieldInfo) -> str:
    return _words_of_limits(tuple(field.metadata))


def _words_of_limits(metadata: tuple[Any, ...]) -> str:
    words = []
    for each in metadata:
        match each:
            case annotated_types.Ge(ge=bound):
                words.append(f"at least {bound}")
            case annotated_types.Gt(gt=bound):
                words.append(f"above {bound}")
            case annotated_types.Le(le=bound):
                words.append(f"at most {bound}")
            case annotated_types.Lt(lt=bound):
                words.append(f"below {bound}")
            case annotated_types.MinLen(min_length=bound):
                words.append(f"at least {bound} of them")
            case annotated_types.MaxLen(max_length=bound):
                words.append(f"at most {bound} of them")
            case _ if getattr(each, "pattern", None):
                words.append("letters, digits, `_`, `.` and `-`")
    return ", ".join(words)


def _default(field: FieldInfo, *, has_models: bool) -> str:
    default = field.default
    if default is PydanticUndefined:
        return "**required**" if field.default_factory is None else "left out"
    if default is None:
        return "left out"
    if isinstance(default, BaseModel):
        kind = getattr(default, "kind", None)
        return f"`kind: {kind}`" if kind else "its defaults"
    if default in ("", (), {}):
        return "empty"
    return f"`{json.dumps(default) if not isinstance(default, str) else default}`"


def _meaning(model: Model, name: str, field: FieldInfo) -> str:
    comment = field.description or _comments(model).get(name, "")
    if comment:
        return _escape(f"{comment[0].upper()}{comment[1:]}")
    inner = _models_in(field.annotation)
    return _text(inner[0]).partition("\n")[0] if len(inner) == 1 else ""


def _comments(model: Model) -> dict[str, str]:
    """Return the comment beside each field, also of the classes that it comes from."""
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if issubclass(each, BaseModel) and each is not BaseModel:
            found |= _comments_of_class(textwrap.dedent(inspect.getsource(each)))
    return found


def _comments_of_class(source: str) -> dict[str, str]:
    lines = source.splitlines()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field in definition.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            has_one_above = lines[field.lineno - 2].lstrip().startswith("#")
            places = range(field.lineno - has_one_above, (field.end_lineno or field.lineno) + 1)
            found[field.target.id] = " ".join(comments[each] for each in places if each in comments)
    return found


def _text(model: Model) -> str:
    return _escape(inspect.cleandoc(model.__doc__ or ""))


def _escape(text: str) -> str:
    """Keep `<` outside of code from being taken for HTML."""
    pieces = text.split("`")
    return "`".join(each if place % 2 else each.replace("<", "&lt;") for place, each in enumerate(pieces))


def _models_in(annotation: Any) -> list[Model]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for each in get_args(annotation) for model in _models_in(each)]


def _is_kind(name: str, field: FieldInfo) -> bool:
    return name == "kind" and get_origin(field.annotation) is Literal


def _anchor(model: Model) -> str:
    return f"keys-{model.__name__.lower()}"
