"""The content folders: find a card, space, recipe or profile by name or by file, and read it strictly."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from consilia.errors import PlanError

Kind = Literal["data/cards", "search_spaces", "ensembles", "cluster"]
Reference = str | Mapping[str, Any]  # a name, a file, or the content itself
Model = TypeVar("Model", bound=BaseModel)

_PACKAGE = Path(__file__).parent


def content_folder(kind: Kind) -> Path:
    """Return the folder of this kind: in the checkout of an editable install, else what the wheel ships."""
    checkout = _PACKAGE.parent.parent / kind
    return checkout if checkout.is_dir() else _PACKAGE / "shipped" / kind


def names(kind: Kind) -> list[str]:
    """Return the names that can be asked for, sorted."""
    return sorted(path.stem for path in content_folder(kind).glob("*.yaml"))


def load(
    kind: Kind, reference: Reference, model: type[Model], *, base: Path, overrides: Mapping[str, Any] | None = None
) -> Model:
    """Read one piece of content.

    Args:
        kind: Which folder names refer to.
        reference: A name such as "resnet", a YAML file, or a mapping with the content itself.
        model: The frozen type to read it into.
        base: Folder that a relative file starts from.
        overrides: Replaces keys of the content; nested mappings are merged.

    Raises:
        PlanError: No such name or file (with a near match), not YAML, or not of this type (with file and key).
    """
    if isinstance(reference, Mapping):
        content, where = dict(reference), f"{kind} (written in the study)"
    else:
        path = _find(kind, reference, base)
        content, where = read_yaml(path), str(path)
        if kind == "data/cards" and content.get("path") is not None:
            content["path"] = str(path.parent / str(content["path"]))
    return validate(model, merge(content, overrides or {}), where=where)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        PlanError: The file is missing, is not UTF-8 YAML, is not a mapping, or names a key twice.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except FileNotFoundError:
        raise PlanError(f"{path} does not exist.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise PlanError(f"{path} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise PlanError(f"{path} must hold keys and values, but holds {type(content).__name__}.")
    return content


def validate(model: type[Model], content: Mapping[str, Any], *, where: str) -> Model:
    """Read `content` into `model`.

    Raises:
        PlanError: One line for each key that is wrong, with `where` and a near match for an unknown key.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [_describe(model, item) for item in error.errors(include_url=False)]
        raise PlanError("\n".join(f"{where}: {line}" for line in dict.fromkeys(lines))) from None


def merge(content: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `content` with `overrides` on top; mappings are merged, everything else is replaced."""
    merged = dict(content)
    for key, value in overrides.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Turn `--set` arguments such as "training.epochs=5" into a nested mapping; values are YAML.

    Raises:
        PlanError: A setting has no "=", or its value is not YAML.
    """
    parsed: dict[str, Any] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key:
            raise PlanError(f"--set needs key=value, but got {setting!r}.")
        try:
            value: Any = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise PlanError(f"--set {key}: the value is not YAML: {error}") from None
        for part in reversed(key.split(".")):
            value = {part: value}
        parsed = merge(parsed, value)
    return parsed


def near_match(word: str, choices: Sequence[str]) -> str:
    """Return " Did you mean 'x'?" for the choice most like `word`, or "" if none is."""
    matches = difflib.get_close_matches(word, choices, n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice is an error: the first value would be lost in silence."""


def _construct_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def _find(kind: Kind, reference: str, base: Path) -> Path:
    is_file = reference.endswith((".yaml", ".yml")) or "/" in reference
    path = base / reference if is_file else content_folder(kind) / f"{reference}.yaml"
    if path.is_file():
        return path
    if is_file:
        raise PlanError(f"{path} does not exist; a name (without .yaml) stands for a file in {content_folder(kind)}.")
    known = names(kind)
    raise PlanError(
        f"{kind} has no {reference!r}.{near_match(reference, known)} Known names: {', '.join(known)}. "
        f"A file of your own is given by its path, such as ./{reference}.yaml."
    )


def _describe(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    location = error["loc"]
    key = ".".join(str(part) for part in location) or "the whole"
    if error["type"] == "extra_forbidden":
        known = sorted(_field_names(model, location[:-1]))
        return f"unknown key {key!r}.{near_match(str(location[-1]), known)} Known keys: {', '.join(known)}."
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{key} is missing."
    if error["type"] in ("value_error", "union_tag_not_found", "union_tag_invalid"):
        return f"{key}: {message}"
    return f"{key}: {message}, but got {error['input']!r}"


def _field_names(model: type[BaseModel], location: Sequence[Any]) -> set[str]:
    """Follow `location` through the fields; parts that are no field (an index, a union's tag) change nothing."""
    models = [model]
    for part in location:
        annotations = [each.model_fields[part].annotation for each in models if part in each.model_fields]
        models = [found for annotation in annotations for found in _models_in(annotation)] or models
        tagged = [each for each in models if "kind" in each.model_fields and each.model_fields["kind"].default == part]
        models = tagged or models
    return {name for each in models for name in each.model_fields}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
