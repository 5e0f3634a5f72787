"""The content folders: find a card, space, recipe or profile by name or by file, and read it strictly."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from consilia.config.frozen import Model, near_match, validate
from consilia.config.strict_yaml import merge, read_yaml
from consilia.errors import PlanError

Kind = Literal["data/cards", "search_spaces", "ensembles", "cluster"]
Reference = str | Mapping[str, Any]  # a name, a file, or the content itself

_PACKAGE = Path(__file__).parent.parent


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


def is_file_reference(reference: Any) -> bool:
    """Say whether a reference is a file of the user's own, not a shipped name or the content itself."""
    return isinstance(reference, str) and (reference.endswith((".yaml", ".yml")) or "/" in reference)


def resolve_path(path: Any, base: Path) -> Path:
    """Return `path` with "~" replaced by the home folder, starting from `base` if it is relative."""
    return base / Path(str(path)).expanduser()


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
