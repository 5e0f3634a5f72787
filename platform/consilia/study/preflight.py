"""What must hold before hours of training start: weights that fit their networks, a disk that is large enough.

torch and timm are imported by what loads weights, so that a search of untrained networks starts without them.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from consilia.config.network import ModelSpec
from consilia.config.record_files import read_weights_notes
from consilia.config.space import Architecture
from consilia.config.study import StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.errors import PlanError, StudyError
from consilia.files import write_json
from consilia.study.opened import OpenStudy
from consilia.train.networks.weights import find_weights, fingerprint, require_weights

_RESERVE_BYTES = 200 * 2**20  # logs, journal, predictions
_CHECKPOINT_COPIES = 4  # network, EMA, and AdamW's two moments


def check_weights(study: OpenStudy) -> None:
    """Find every architecture's weights, and note in the study which they are.

    Raises:
        PlanError: Some cannot be found; names all that are missing.
        StudyError: The study was started from other weights.
    """
    source = study.weights
    if not source.is_pretrained:
        return
    names = list(dict.fromkeys(each.timm for each in _architectures(study)))
    if source.kind == "hub":
        notes = dict.fromkeys(names, "timm hub")
    else:
        notes = {name: fingerprint(file) for name, file in require_weights(names, source).items()}
    write_json(study.folder.weights, _check_same(notes, study.folder) | notes)


def load_weights_once(study: OpenStudy) -> None:
    """Load every architecture's weights into its network, before a search relies on them.

    Raises:
        PlanError: Some cannot be had or do not fit their network; names all of them.
    """
    if study.weights.is_pretrained:
        _load_each(study)


def check_unchanged(study: OpenStudy) -> None:
    """Compare the weights of a study that trains no more with those it was started from; files may be gone by now.

    Raises:
        StudyError: They are others: the study's result is not that of the weights that are asked for.
    """
    if study.weights.path is None:
        return
    files = {each.timm: find_weights(each.timm, study.weights) for each in _architectures(study)}
    _check_same({name: fingerprint(file) for name, file in files.items() if file is not None}, study.folder)


def check_disk(
    study: OpenStudy, *, n_slots: int, largest_network: int, free_bytes: Callable[[Path], int] | None = None
) -> None:
    """Compare the study's disk need with what is free.

    Args:
        study: Its folder exists.
        n_slots: Trials at a time.
        largest_network: Bytes of the weights of the study's largest network.
        free_bytes: Bytes free at a folder; replaced in tests.

    Raises:
        StudyError: The disk will be too full; the need, the free space and what to change are named.
    """
    plan, folder = study.plan, study.folder
    need = disk_need(plan, n_slots=n_slots, largest_network=largest_network) - _stored_bytes(folder)
    free = (free_bytes or _free_bytes)(folder.root)
    if need > free:
        slots = "1 slot" if n_slots == 1 else f"{n_slots} slots"
        raise StudyError(
            f"The study may need {need / 1e9:.1f} GB more in {folder.root}, but {free / 1e9:.1f} GB are free: weights "
            f"of {plan.search.keep_weights} trials with {plan.folds.k} folds each, and a checkpoint for each of "
            f"{slots}.\n"
            "Lower search.keep_weights, leave the largest architectures out, or give another disk with --studies."
        )


def disk_need(plan: StudyPlan, *, n_slots: int, largest_network: int) -> int:
    """Return an upper bound of the bytes a study writes, if every trial takes the largest network."""
    n_kept = min(plan.search.keep_weights + n_slots, plan.search.trials)
    weights = n_kept * plan.folds.k * largest_network
    bundle = weights  # an ensemble may take every kept trial
    checkpoints = min(n_slots, plan.search.trials) * _CHECKPOINT_COPIES * largest_network
    return weights + bundle + checkpoints + _RESERVE_BYTES


def _architectures(study: OpenStudy) -> list[Architecture]:
    """Return those that the study can train."""
    known = study.space.architectures
    configuration = study.plan.search.configuration
    return list(known.values()) if configuration is None else [known[configuration.architecture]]


def _load_each(study: OpenStudy) -> None:
    from consilia.train.networks.pretrained import build_pretrained

    failures: dict[str, str] = {}
    channels = study.plan.data.channels
    for each in _architectures(study):
        try:
            build_pretrained(ModelSpec(architecture=each, n_classes=2, channels=channels), study.weights)
        except PlanError as error:
            failures[each.timm] = str(error)
    if len(failures) == 1:
        raise PlanError(next(iter(failures.values())))
    if failures:
        first = next(iter(failures.values()))
        raise PlanError(f"Pretrained weights of {', '.join(failures)} could not be loaded. The first: {first}")


def _check_same(notes: dict[str, str], folder: StudyFolder) -> dict[str, str]:
    """Return what the study has noted before, if none of it has changed."""
    before = read_weights_notes(folder.weights)
    changed = sorted(name for name in before.keys() & notes.keys() if before[name] != notes[name])
    if changed:
        raise StudyError(
            f"{folder.root} was started from other pretrained weights of {', '.join(changed)} than there are now "
            f"({before[changed[0]]}, now {notes[changed[0]]}). Restore them, or give the study another name."
        )
    return before


def _stored_bytes(folder: StudyFolder) -> int:
    """Bytes that an earlier run of this study has written: they are not needed again."""
    return sum(path.stat().st_size for path in folder.trials.rglob("*") if path.is_file())


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free
