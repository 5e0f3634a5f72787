"""The content folders: find a card, space, recipe or profile by name or by file, and read it strictly."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

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
        path = _find(kind, str(reference), base)
        content, where = read_yaml(path), str(path)
        if kind == "data/cards" and content.get("path") is not None:
            content["path"] = str(resolve_path(content["path"], path.parent))
        if overrides:
            where += f" (with {', '.join(overrides)} set from outside)"
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
        raise PlanError(f"{path}{_explain_yaml(error)}") from None
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
            value: Any = yaml.load(text, Loader=_StrictLoader)
        except yaml.YAMLError as error:
            raise PlanError(f"--set {key}: the value is not YAML{_explain_yaml(error)}") from None
        _put(parsed, key, value)
    return parsed


def is_file_reference(reference: Any) -> bool:
    """Say whether a reference is a file of one's own, rather than a shipped name or the content itself."""
    return isinstance(reference, str) and (reference.endswith((".yaml", ".yml")) or "/" in reference)


def resolve_path(path: Any, base: Path) -> Path:
    """Return `path` with "~" replaced by the home folder, starting from `base` if it is relative."""
    return base / Path(str(path)).expanduser()


def near_match(word: str, choices: Sequence[str]) -> str:
    """Return " Did you mean 'x'?" for the choice most like `word`, or "" if none is."""
    matches = difflib.get_close_matches(word, choices, n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice is an error: the first value would be lost in silence."""


def _construct_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a plain word", key_node.start_mark)
        if (key_node.tag, key_node.value) in seen:
            problem = f"the key {key_node.value!r} stands twice"
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        seen.add((key_node.tag, key_node.value))
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def _explain_yaml(error: yaml.YAMLError) -> str:
    """Return ", line 3: what is wrong there" in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f", line {error.problem_mark.line + 1}: {error.problem}."
    return f": {' '.join(str(error).split())}."


def _put(parsed: dict[str, Any], key: str, value: Any) -> None:
    """Store `value` under a dotted key; a later setting of the same key counts.

    Raises:
        PlanError: One setting gives a value to what another one gives keys.
    """
    *sections, last = key.split(".")
    for number, section in enumerate(sections):
        parsed = parsed.setdefault(section, {})
        if not isinstance(parsed, dict):
            whole = ".".join(sections[: number + 1])
            raise PlanError(f"--set {key}: another --set gives {whole} a value of its own; use one of the two.")
    below = parsed.get(last)
    if isinstance(below, dict) and not isinstance(value, dict):
        raise PlanError(f"--set {key}: another --set gives keys below {key}; use one of the two.")
    parsed[last] = merge(below, value) if isinstance(below, dict) else value


def _find(kind: Kind, reference: str, base: Path) -> Path:
    is_file = is_file_reference(reference)
    path = resolve_path(reference, base) if is_file else content_folder(kind) / f"{reference}.yaml"
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
        return f"{key}.kind must be one of {error['ctx']['expected_tags']}, but got {error['ctx']['tag']!r}."
    if error["type"] == "value_error":
        return f"{key}: {message}"
    return f"{key}: {message}, but got {error['input']!r}"


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
