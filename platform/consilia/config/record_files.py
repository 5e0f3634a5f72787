"""Records as JSON: what lies in a study's result.json, trial.json and weights.json."""

import json
import math
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from consilia.config.records import FoldResult, RefitResult, TrialRecord
from consilia.errors import StudyError
from consilia.files import write_json

Record = TypeVar("Record")

_FOLD_RESULT = TypeAdapter(FoldResult)
_REFIT_RESULT = TypeAdapter(RefitResult)
_TRIAL_RECORD = TypeAdapter(TrialRecord)


def write_fold_result(path: Path, result: FoldResult) -> None:
    """Write a fold's result.json atomically."""
    write_json(path, _to_json(_FOLD_RESULT, result))


def read_fold_result(path: Path) -> FoldResult:
    """Read a fold's result.json.

    Raises:
        StudyError: The file is missing or is not a fold result; names it.
    """
    return _read(path, _FOLD_RESULT, "fold result")


def write_refit_result(path: Path, result: RefitResult) -> None:
    """Write a refit's result.json atomically."""
    write_json(path, _to_json(_REFIT_RESULT, result))


def read_refit_result(path: Path) -> RefitResult:
    """Read a refit's result.json.

    Raises:
        StudyError: The file is missing or is not a refit result; names it.
    """
    return _read(path, _REFIT_RESULT, "refit result")


def trial_to_json(record: TrialRecord) -> dict[str, Any]:
    """Return the record as plain values; a metric that is undefined (NaN) becomes None."""
    return _to_json(_TRIAL_RECORD, record)


def write_trial(path: Path, record: TrialRecord) -> None:
    """Write trial.json atomically."""
    write_json(path, trial_to_json(record))


def read_trial(path: Path) -> TrialRecord:
    """Read trial.json.

    Raises:
        StudyError: The file is missing or is not a trial record; names it.
    """
    return _read(path, _TRIAL_RECORD, "trial record")


def read_weights_notes(path: Path) -> dict[str, str]:
    """Return where each model's pretrained weights came from; nothing where the file does not exist.

    Raises:
        StudyError: The file is damaged.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StudyError(f"{path} is damaged: {error}. Restore it.") from error
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise StudyError(f"{path} must map each model to where its weights came from. Restore it.")
    return content


def _to_json(adapter: TypeAdapter[Record], record: Record) -> dict[str, Any]:
    return cast(dict[str, Any], _without_nan(adapter.dump_python(record, mode="json")))


def _read(path: Path, adapter: TypeAdapter[Record], kind: str) -> Record:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} must be readable JSON, but: {error}. Restore it, or delete its folder.") from error
    if not isinstance(value, dict):
        raise StudyError(f"{path} must hold a JSON object, but holds {type(value).__name__}. Delete its folder.")
    try:
        return adapter.validate_python(_with_nan(value))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise StudyError(
            f"{path} must be a {kind}, but {key}: {first['msg']}. Restore it, or delete its folder."
        ) from error


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _with_nan(value: Any) -> Any:
    """Only metrics can be undefined; any other None is a value that is absent."""
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    if not isinstance(value, dict):
        return value
    result = {key: _with_nan(item) for key, item in value.items()}
    if isinstance(metrics := result.get("metrics"), dict):
        result["metrics"] = {name: math.nan if item is None else item for name, item in metrics.items()}
    return result
