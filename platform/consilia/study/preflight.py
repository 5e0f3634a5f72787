"""What must hold before hours of training start: a disk that is large enough."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from consilia.config.study import StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.errors import StudyError
from consilia.train.networks.factory import ModelSpec, build_model
from consilia.tune.space import join_spaces

_RESERVE_BYTES = 200 * 2**20  # logs, journal, predictions
_CHECKPOINT_COPIES = 4  # network, EMA, and AdamW's two moments


def check_disk(plan: StudyPlan, folder: StudyFolder, *, free_bytes: Callable[[Path], int] | None = None) -> None:
    """Compare the study's disk need with what is free.

    Args:
        plan: The study.
        folder: Where it will be written; it exists.
        free_bytes: Bytes free at a folder; replaced in tests.

    Raises:
        StudyError: The disk will be too full; the need, the free space and what to change are named.
    """
    architectures = join_spaces(plan.spaces, weights=plan.training.weights).architectures.values()
    specs = [ModelSpec(architecture=each, n_classes=2, channels=plan.data.channels) for each in architectures]
    need = disk_need(plan, largest_network=max(map(_network_bytes, specs))) - _stored_bytes(folder)
    free = (free_bytes or _free_bytes)(folder.root)
    if need > free:
        raise StudyError(
            f"The study may need {need / 1e9:.1f} GB more in {folder.root}, but {free / 1e9:.1f} GB are free: weights "
            f"of {plan.search.keep_weights} trials with {plan.folds.k} folds each, and a checkpoint for every slot.\n"
            "Lower search.keep_weights, leave the largest architectures out, or give another disk with --studies."
        )


def disk_need(plan: StudyPlan, *, largest_network: int) -> int:
    """Return an upper bound of the bytes a study writes, if every trial takes the largest network."""
    n_slots = plan.cluster.max_slots or 8
    n_kept = min(plan.search.keep_weights + n_slots, plan.search.trials)
    weights = n_kept * plan.folds.k * largest_network
    bundle = weights  # an ensemble may take every kept trial
    checkpoints = min(n_slots, plan.search.trials) * _CHECKPOINT_COPIES * largest_network
    return weights + bundle + checkpoints + _RESERVE_BYTES


def _network_bytes(spec: ModelSpec) -> int:
    with torch.device("meta"):
        return sum(tensor.numel() * tensor.element_size() for tensor in build_model(spec).state_dict().values())


def _stored_bytes(folder: StudyFolder) -> int:
    """Bytes that an earlier run of this study has written: they are not needed again."""
    return sum(path.stat().st_size for path in folder.trials.rglob("*") if path.is_file())


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free
