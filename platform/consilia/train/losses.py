"""Losses of a batch against soft targets; lower is better.

Sources: Zhang et al., mixup, ICLR 2018; Szegedy et al., CVPR 2016 (label smoothing); Menon et al., Long-tail
learning via logit adjustment, ICLR 2021, equation 10; Lin et al., Focal loss, ICCV 2017.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from consilia.config.space import Hyperparameters
from consilia.errors import DataError

FOCAL_GAMMA = 2.0


@dataclass(frozen=True, slots=True)
class Loss:
    """Of logits (b, c) and targets (b, c) whose rows sum to 1: the mean over the batch."""

    is_focal: bool
    smoothing: float
    shift: torch.Tensor | None = None  # (c,), which is added to logits: the classes' priors among the training images

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss."""
        if self.is_focal:
            return focal_loss(logits, smooth(targets, self.smoothing))
        if self.shift is not None:
            logits = logits + self.shift
        return F.cross_entropy(logits, targets, label_smoothing=self.smoothing)

    def become(self, other: "Loss") -> None:
        """Take over what training images decide, in place, from the same configuration's loss of others."""
        if self.shift is not None and other.shift is not None:
            self.shift.copy_(other.shift)


def make_loss(hyperparameters: Hyperparameters, class_counts: npt.NDArray[np.int64], device: torch.device) -> Loss:
    """Return the loss that the configuration asks for.

    Args:
        hyperparameters: imbalance, tau and label_smoothing decide.
        class_counts: Training images of each class, (n_classes,).
        device: Of the logits.

    Raises:
        DataError: A class without training images, whose prior is then unknown.
    """
    imbalance, smoothing = hyperparameters.imbalance, hyperparameters.label_smoothing
    if imbalance != "logit_adjustment":
        return Loss(is_focal=imbalance == "focal", smoothing=smoothing)
    if (class_counts == 0).any():
        missing = np.flatnonzero(class_counts == 0).tolist()
        raise DataError(f"Logit adjustment needs training images of every class, but classes {missing} have none.")
    prior = torch.from_numpy(class_counts / class_counts.sum()).float().to(device)
    return Loss(is_focal=False, smoothing=smoothing, shift=hyperparameters.tau * prior.log())


def focal_loss(logits: torch.Tensor, targets: torch.Tensor, *, gamma: float = FOCAL_GAMMA) -> torch.Tensor:
    """Return the mean over the batch of sum_c targets_c (1 - p_c)^gamma (-log p_c)."""
    log_p = F.log_softmax(logits, dim=1)
    losses = -(targets * (1 - log_p.exp()).pow(gamma) * log_p).sum(dim=1)
    return losses.mean()


def smooth(targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Move the share `smoothing` of every target to the uniform distribution."""
    return targets * (1 - smoothing) + smoothing / targets.shape[1]


def mix(
    images: torch.Tensor, targets: torch.Tensor, *, partners: float | torch.Tensor, n_own: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix each image and target of a shuffled batch with the one at the mirrored place.

    Args:
        images: (b, ...).
        targets: (b, n_classes).
        partners: Share of the partner, in all images of the batch.
        n_own: Images that are mixed, with as many partners that follow them; all of them mix among each other.
    """
    if n_own == len(images):
        return images.lerp(images.flip(0), partners), targets.lerp(targets.flip(0), partners)
    return images[:n_own].lerp(images[n_own:], partners), targets[:n_own].lerp(targets[n_own:], partners)


def partners_shares(rng: np.random.Generator, n: int, *, alpha: float) -> npt.NDArray[np.float64]:
    """Draw the partner's share of each of n batches, (n,): 1 - Beta(alpha, alpha), or 0 where alpha is 0."""
    return 1 - rng.beta(alpha, alpha, size=n) if alpha > 0 else np.zeros(n)
