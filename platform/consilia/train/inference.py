"""Logits of stored images, in inference mode."""

import logging
from collections.abc import Callable
from contextlib import closing

import torch
from torch import nn

from consilia.config.network import Preprocessing
from consilia.config.records import Logits, Rows
from consilia.train.batches import Images, evaluation_batches
from consilia.train.device import MEMORY_FORMAT, Precision, autocast, computes_in_bf16, steady_convolutions
from consilia.train.input import network_input

logger = logging.getLogger(__name__)

MOST_SHIFT = 1e-2  # of a probability, that bfloat16 may move it by

_MORE, _MOST = 4, 512  # images at a time on a GPU, for each one of a training batch; a pass without gradients has room


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    images: Images,
    rows: Rows,
    *,
    preprocessing: Preprocessing,
    batch_size: int,
    precision: Precision = "float32",
    alive: Callable[[], object] = lambda: None,
) -> Logits:
    """Return the logits (n, n_classes) of the evaluation view of `rows`, in their order.

    In float32 even where training is not: what is stored here must be what a predictor computes later.

    Args:
        model: On the device of `images`; it is left in evaluation mode.
        images: The store.
        rows: At least one.
        preprocessing: Of the model.
        batch_size: Images at a time; the result does not depend on it beyond rounding.
        precision: "auto" is for scores that are only compared: bfloat16 on a GPU that has it, unless it moves a
            probability of the first batch, which is computed in both, by more than `MOST_SHIFT`.
        alive: Called before each batch, so that a watchdog can tell a long validation from a hang.
    """
    model.eval()
    device = next(model.parameters()).device
    is_tried = computes_in_bf16(device, precision)
    parts = []
    exactly = steady_convolutions(device, rounds=False)
    with exactly, closing(images.batches(evaluation_batches(rows, batch_size))) as batches:
        for batch in batches:
            alive()
            inputs = network_input(batch, preprocessing).contiguous(memory_format=MEMORY_FORMAT)
            with autocast(device, precision):
                logits = model(inputs).float()
            if is_tried:
                is_tried = False
                half, logits = logits, model(inputs).float()
                shift = float((half.softmax(dim=1) - logits.softmax(dim=1)).abs().max())
                if not shift <= MOST_SHIFT:
                    logger.warning("scored in float32: bfloat16 moves a probability by %.3f", shift)
                    precision = "float32"
            parts.append(logits)
    logits_of_all: Logits = torch.cat(parts).cpu().numpy()  # at the end: each copy would make a GPU wait
    return logits_of_all


def scoring_batch(batch_size: int, device: torch.device) -> int:
    """Return how many images are scored at a time where `batch_size` are trained on."""
    return batch_size if device.type == "cpu" else max(batch_size, min(_MOST, _MORE * batch_size))
