"""How much memory a training step takes: measured on synthetic images, with everything that training itself uses."""

import copy
import re
import resource
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import nn

from consilia.config.augmentation import AugmentationPolicy
from consilia.config.network import ModelSpec
from consilia.train.batches import Images, MappedImages
from consilia.train.device import MEMORY_FORMAT, mps_serves
from consilia.train.inference import predict_logits, scoring_batch
from consilia.train.losses import make_loss
from consilia.train.networks.factory import build_model
from consilia.train.optimiser import WeightAverage, make_optimiser
from consilia.train.step import Batch, Settings, Step
from consilia.train.step_case import StepCase, StepMemory
from consilia.train.warp import draw_warps

_MEASURED = 3  # steps at most
_NEAR = 0.5  # of the largest estimate; on a CPU, estimates are right within about a tenth
_COPIES = 9  # of each weight: itself, its gradient, AdamW's moments, its average; once more for the next checkpoint


def measure_step(case: StepCase, device: torch.device) -> StepMemory:
    """Train two steps and score one batch on synthetic images, and read how much memory that took.

    The first step makes the optimiser's state, so that the second meets it with all its activations. On the CPU the
    first takes two images only, which saves half of the time.

    Args:
        case: What is trained.
        device: Nothing else should run on it. A GPU's peak is this call's, main memory's that of the process so far.

    Raises:
        torch.OutOfMemoryError: The step does not fit the GPU. A CPU raises MemoryError or RuntimeError.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    model = build_model(case.spec).to(device, memory_format=MEMORY_FORMAT)  # type: ignore[call-overload] # torch's stub lacks it
    average = WeightAverage(model)
    size, channels = case.preprocessing.size, case.preprocessing.channels
    pixels = np.random.default_rng(0).integers(0, 256, (case.batch_size, size, size, channels), dtype=np.uint8)
    images = MappedImages(pixels, device)
    # Data-parallel training gathers every gradient in buckets of its own.
    buckets = [torch.empty_like(each) for each in model.parameters()] if case.n_workers > 1 else []
    step, kept = _train_steps(case, model, average, images, device)
    n_scored = scoring_batch(case.batch_size, device)
    predict_logits(
        average.module,
        images,
        np.arange(n_scored) % case.batch_size,
        preprocessing=case.preprocessing,
        batch_size=n_scored,
    )
    found = _read_memory(case, device).model_copy(update={"is_captured": step.is_captured})
    del buckets, step, kept  # a fold holds all of it while it scores, too
    return found


def most_demanding(cases: Sequence[StepCase]) -> tuple[StepCase, ...]:
    """Return the steps that may take most memory, in ascending order of their estimates.

    At most three are returned: those whose estimate is at least half of the largest one.
    """
    ranked = sorted(((estimate_step(case), case) for case in cases), key=lambda pair: pair[0])
    enough = _NEAR * ranked[-1][0]
    return tuple(case for estimate, case in ranked[-_MEASURED:] if estimate >= enough)


def estimate_step(case: StepCase) -> int:
    """Estimate the bytes of a step without computing it, to tell large networks from small ones.

    Weights with their copies, and the outputs of all layers at 4 bytes a number: passed through as shapes alone.
    """
    n_outputs = 0

    def count(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal n_outputs
        n_outputs += output.numel() if isinstance(output, torch.Tensor) else 0

    with torch.device("meta"):
        model = build_model(case.spec).eval()
        for module in model.modules():
            if not any(module.children()):
                module.register_forward_hook(count)
        side = case.preprocessing.image_size
        model(torch.empty(1, case.spec.channels, side, side))
    n_weights = sum(each.numel() for each in model.parameters())
    return 4 * (_COPIES * n_weights + case.batch_size * n_outputs)


def network_bytes(spec: ModelSpec) -> int:
    """Return how many bytes a network's weights take, in a file as in memory."""
    with torch.device("meta"):
        return sum(each.numel() * each.element_size() for each in build_model(spec).state_dict().values())


def _train_steps(
    case: StepCase, model: nn.Module, average: WeightAverage, images: Images, device: torch.device
) -> tuple[Step, object]:
    """Take a step for each of two batches, captured on a GPU that can; return the step, and the state that it keeps."""
    options, rng = case.hyperparameters, np.random.default_rng(0)
    rows = np.arange(case.batch_size)
    parts = [rows[:2] if device.type == "cpu" else rows, rows]
    warps = draw_warps(rng, len(rows), policy=AugmentationPolicy(), strength=options.augmentation).to(device)
    one_hot = torch.eye(case.spec.n_classes, device=device)[torch.from_numpy(rows % case.spec.n_classes).to(device)]
    optimiser = make_optimiser(model, options)
    step = Step(
        model=model.train(),
        average=average,
        optimiser=optimiser,
        loss=make_loss(options, np.ones(case.spec.n_classes, np.int64), device),
        preprocessing=case.preprocessing,
        precision=case.precision,
        mixes=options.mixup > 0,
        often=[case.batch_size] if case.n_workers == 1 else [],
    )
    numbers = [0.1, 0.5, 1.0, *(options.lr for _ in optimiser.param_groups)]
    settings: Settings = numbers if device.type == "cpu" else torch.tensor(numbers, device=device)
    with closing(images.batches(parts)) as batches:
        for part, batch in zip(parts, batches, strict=True):
            present = slice(0, len(part))
            taken = Batch(batch, warps[present] if options.augmentation else None, one_hot[present], settings)
            step(taken, n_own=len(part))
            # As `Checkpoints` keeps it: from the first epoch on, each step meets a copy.
            kept = copy.deepcopy([each.state_dict() for each in (model, average.module, optimiser)])
    return step, kept


def _read_memory(case: StepCase, device: torch.device) -> StepMemory:
    peak = context = total = 0
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_reserved(device)
        free, total = torch.cuda.mem_get_info(device)
        context = max(0, total - free - torch.cuda.memory_reserved(device))
    return StepMemory(
        title=case.title,
        device_bytes=peak,
        context_bytes=context,
        device_total_bytes=total,
        host_bytes=peak_host_bytes(),
        by_mps=device.type == "cuda" and mps_serves(),
    )


def peak_host_bytes() -> int:
    """Return the most main memory that this process has had.

    Linux hands the peak of `getrusage` down to the programs that a process starts, so a small child of a large process
    would seem as large; /proc counts the program alone.
    """
    if sys.platform == "linux":
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
