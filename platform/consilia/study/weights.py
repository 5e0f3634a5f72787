"""Pretrained weights: where a study's networks start from, and how a folder of weights is filled."""

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from consilia.config.space import SearchSpace
from consilia.config.strict_yaml import read_yaml
from consilia.config.study import FROM_SCRATCH, HUB, StudyPlan, WeightsSource
from consilia.errors import PlanError
from consilia.files import write_atomically
from consilia.study.plan import read_plan
from consilia.study.spaces import read_space

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


def needed_models(references: Sequence[str]) -> tuple[str, ...]:
    """Return the timm models of search spaces and studies, each once.

    Args:
        references: Names or files of search spaces, or study files.

    Raises:
        PlanError: There is no such space or file, or it is wrong.
    """
    spaces = [space for reference in references for space in _spaces(reference)]
    models = [architecture.timm for space in spaces for architecture in space.architectures.values()]
    return tuple(dict.fromkeys(models))


def weights_folder(given: Path | None) -> Path:
    """Return the folder that is given, else that of CONSILIA_WEIGHTS.

    Raises:
        PlanError: Neither names one, or it does not exist.
    """
    text = str(given) if given is not None else os.environ.get(VARIABLE, "")
    if not text:
        raise PlanError(f"No weights folder is named: give --weights DIR, or set {VARIABLE}.")
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise PlanError(f"The weights folder {folder} does not exist.")
    return folder


def fetch_weights(models: Sequence[str], to: Path) -> Iterator[tuple[str, Path, bool]]:
    """Write each model's ImageNet weights to `<to>/<model>.safetensors`, with notes of their origin.

    Returns:
        Model, file, and whether it was fetched now, one after the other.

    Raises:
        PlanError: Weights cannot be fetched; what was fetched before stays.
    """
    from safetensors.torch import save_file

    from consilia.train.networks.pretrained import download
    from consilia.train.networks.weights import SUFFIX, find_weights

    to.mkdir(parents=True, exist_ok=True)
    source = WeightsSource(kind="folder", path=to.absolute())
    for name in models:
        if (there := find_weights(name, source)) is not None:
            yield name, there, False
            continue
        state, notes = download(name)
        tensors = {key: tensor.contiguous() for key, tensor in state.items()}
        file = to / f"{name}{SUFFIX}"
        write_atomically(file, functools.partial(save_file, tensors, metadata=notes))
        yield name, file, True


def _spaces(reference: str) -> tuple[SearchSpace, ...]:
    """Read a study's spaces or a single space; a file is a study if it has spaces."""
    path = Path(reference)
    if path.suffix in (".yaml", ".yml") and path.is_file() and _is_study(path):
        return read_plan(path).spaces
    return (read_space(reference, Path.cwd()),)


def _is_study(path: Path) -> bool:
    return "spaces" in read_yaml(path)


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
