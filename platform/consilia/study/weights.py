"""Which pretrained weights a study starts from: resolved and noted before any network trains."""

import os
from collections.abc import Mapping
from pathlib import Path

from consilia.config.record_files import read_weights_notes
from consilia.config.space import Architecture
from consilia.config.study import FROM_SCRATCH, HUB, StudyPlan, WeightsSource
from consilia.config.study_folder import StudyFolder
from consilia.errors import PlanError, StudyError
from consilia.files import write_json
from consilia.train.networks.factory import ModelSpec
from consilia.train.networks.pretrained import build_pretrained
from consilia.train.networks.weights import find_weights, fingerprint, require_weights
from consilia.tune.space import join_spaces

VARIABLE = "CONSILIA_WEIGHTS"


def resolve_weights(plan: StudyPlan, environment: Mapping[str, str] = os.environ) -> WeightsSource:
    """Return where the plan's networks start from.

    ImageNet weights come from the folder of the cluster profile, else from that of CONSILIA_WEIGHTS, else from
    timm's hub; with a folder, the hub is never asked.

    Raises:
        PlanError: The folder or file does not exist.
    """
    wanted = plan.training.weights
    if wanted == "none":
        return FROM_SCRATCH
    if wanted != "imagenet":
        return _source(wanted, setting="training.weights")
    if plan.cluster.weights:
        return _source(plan.cluster.weights, setting="cluster.weights")
    if environment.get(VARIABLE):
        return _source(environment[VARIABLE], setting=VARIABLE)
    return HUB


def check_weights(plan: StudyPlan, source: WeightsSource, folder: StudyFolder) -> None:
    """Load every architecture's weights once, and note in the study which they were.

    Raises:
        PlanError: Some cannot be had or do not fit their network; names all that are missing.
        StudyError: The study was started from other weights.
    """
    if not source.is_pretrained:
        return
    names = list(dict.fromkeys(each.timm for each in _architectures(plan)))
    if source.kind == "hub":
        notes = dict.fromkeys(names, "timm hub")
    else:
        notes = {name: fingerprint(file) for name, file in require_weights(names, source).items()}
    _load_each(plan, source)
    _note(notes, folder)


def check_unchanged(plan: StudyPlan, source: WeightsSource, folder: StudyFolder) -> None:
    """Compare the weights of a study that trains no more with those it was started from; files may be gone by now.

    Raises:
        StudyError: They are others: the study's result is not that of the weights that are asked for.
    """
    if source.path is None:
        return
    files = {each.timm: find_weights(each.timm, source) for each in _architectures(plan)}
    _check_same({name: fingerprint(file) for name, file in files.items() if file is not None}, folder)


def _architectures(plan: StudyPlan) -> list[Architecture]:
    """Return those that the study can train."""
    known = join_spaces(plan.spaces, weights=plan.training.weights).architectures
    configuration = plan.search.configuration
    return list(known.values()) if configuration is None else [known[configuration.architecture]]


def _load_each(plan: StudyPlan, source: WeightsSource) -> None:
    failures: dict[str, str] = {}
    for each in _architectures(plan):
        try:
            build_pretrained(ModelSpec(architecture=each, n_classes=2, channels=plan.data.channels), source)
        except PlanError as error:
            failures[each.timm] = str(error)
    if len(failures) == 1:
        raise PlanError(next(iter(failures.values())))
    if failures:
        first = next(iter(failures.values()))
        raise PlanError(f"Pretrained weights of {', '.join(failures)} could not be loaded. The first: {first}")


def _note(notes: dict[str, str], folder: StudyFolder) -> None:
    write_json(folder.weights, _check_same(notes, folder) | notes)


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


def _source(text: str, *, setting: str) -> WeightsSource:
    path = Path(text).expanduser().absolute()
    if path.is_dir():
        return WeightsSource(kind="folder", path=path)
    if path.is_file():
        return WeightsSource(kind="file", path=path)
    raise PlanError(
        f"{setting} names {path}, which does not exist. It must be a folder of <timm model name>.safetensors; "
        "consilia weights fetch SPACE --to DIR fills one where there is internet."
    )
