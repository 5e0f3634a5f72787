"""Logits of stored images, in inference mode."""

from collections.abc import Callable
from contextlib import closing

import torch
from torch import nn

from consilia.config.network import Preprocessing
from consilia.config.records import Logits, Rows
from consilia.train.batches import Images, evaluation_batches
from consilia.train.device import MEMORY_FORMAT
from consilia.train.input import network_input


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    images: Images,
    rows: Rows,
    *,
    preprocessing: Preprocessing,
    batch_size: int,
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
        alive: Called before each batch, so that a watchdog can tell a long validation from a hang.
    """
    model.eval()
    parts = []
    with closing(images.batches(evaluation_batches(rows, batch_size))) as batches:
        for batch in batches:
            alive()
            inputs = network_input(batch, preprocessing)
            parts.append(model(inputs.contiguous(memory_format=MEMORY_FORMAT)).float())
    logits: Logits = torch.cat(parts).cpu().numpy()  # at the end: each copy would make a GPU wait
    return logits
