"""What a bundle compares new images with, made from the images of the training. Source: docs/methods.md section 7."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from consilia.bundle.array_files import OodReference
from consilia.bundle.document import Member, Network
from consilia.config.records import Rows
from consilia.data.folds import FoldPlan
from consilia.data.store.image_store import ImageStore
from consilia.decision.combination import LinearPool
from consilia.decision.ood.distance import MOST_ROWS, Views, views
from consilia.decision.ood.verdict import OodReport
from consilia.ensemble.ood_reference import fit_inputs, fit_reference
from consilia.predict.images import is_grey
from consilia.predict.networks import FoldEnsembles
from consilia.train.networks.factory import build_model
from consilia.train.networks.layers import has_features

_BATCH = 64  # images in a network at once
_NO_OOD = "Images that are unlike those of the training are not told from others: "


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedOod:
    """What the document says of it, and what the file holds."""

    report: OodReport
    reference: OodReference


def fit_ood(
    members: Sequence[Member],
    files: Mapping[str, Path],
    *,
    store: ImageStore,
    folds: FoldPlan,
    seed: int,
    device: torch.device,
) -> tuple[FittedOod | None, tuple[str, ...]]:
    """Describe usual images as the network of the heaviest member sees them, in its first fold.

    Only images of the folds enter: neither a test image nor one that was left out.

    Args:
        members: Of the ensemble.
        files: Where each network's safetensors file lies, by its name in the members.
        store: The prepared data set.
        folds: Of the study.
        seed: Decides which images are drawn.
        device: That the network runs on.

    Returns:
        What new images are compared with; or, where that cannot be made, None and a warning that says why.

    Raises:
        BundleError: A weights file does not fit its model.
    """
    chosen = _reference_network(members)
    if chosen is None:
        return None, (f"{_NO_OOD}no member's network shows its stages, which images are compared by.",)
    member, network = chosen
    if network.fold is None:
        return None, (f"{_NO_OOD}networks that were trained on all images leave none to compare new ones with.",)
    alone = member.model_copy(update={"weight": 1.0, "networks": (network,)})
    networks = FoldEnsembles([alone], files, combination=LinearPool(weights=(1.0,)), device=device)
    trained_on, held_out = reference_rows(folds, network.fold, seed=seed)
    try:
        features = fit_reference(_see(networks, store, trained_on), _see(networks, store, held_out))
    except ValueError as error:
        return None, (f"{_NO_OOD}{error}.",)
    rows = np.union1d(trained_on, held_out)
    inputs = fit_inputs(_StoreRows(store, rows), aspect=_aspect(store, rows), colour=_colour(store, rows))
    report = OodReport(trial=member.trial, fold=network.fold, fitted_on=len(trained_on), compared_with=len(held_out))
    return FittedOod(report=report, reference=OodReference(features=features, inputs=inputs)), ()


def reference_rows(folds: FoldPlan, fold: int, *, seed: int) -> tuple[Rows, Rows]:
    """Return the rows to fit the reference of `fold`'s network on, and those whose distances are ranked against.

    The former are images it was trained on, the latter those that the fold held out: to a network its own training
    images lie nearer than new ones do. At most 2,000 of each, drawn at random: images and not whole patients, since the
    more patients there are among them, the less a p-value depends on the draw.
    """
    generator = np.random.default_rng([seed, fold])
    return _draw(folds.training(fold), generator), _draw(folds.validation(fold), generator)


class _StoreRows:
    """Rows of a store, read from the disk as they are sliced."""

    def __init__(self, store: ImageStore, rows: Rows) -> None:
        self._store, self._rows = store, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: slice) -> npt.NDArray[np.uint8]:
        pixels: npt.NDArray[np.uint8] = self._store.pixels[self._rows[part]]
        return pixels


def _reference_network(members: Sequence[Member]) -> tuple[Member, Network] | None:
    """Return the first fold's network of the heaviest member that has features."""
    for member in sorted(members, key=lambda each: -each.weight):
        with torch.device("meta"):
            model = build_model(member.model)
        if has_features(model):
            return member, min(member.networks, key=lambda network: network.fold or 0)
    return None


def _see(networks: FoldEnsembles, store: ImageStore, rows: Rows) -> Views:
    """Return the views of images, of which a batch is in memory at once."""
    parts = []
    for start in range(0, len(rows), _BATCH):
        pixels = store.pixels[rows[start : start + _BATCH]]
        parts.append(views(networks.logits_and_features(pixels, of=(0, 0))[1], pixels))
    return tuple(np.concatenate(view) for view in zip(*parts, strict=True))


def _aspect(store: ImageStore, rows: Rows) -> npt.NDArray[np.float64]:
    index = store.index.iloc[rows]
    result: npt.NDArray[np.float64] = index["width"].to_numpy(np.float64) / index["height"].to_numpy(np.float64)
    return result


def _colour(store: ImageStore, rows: Rows) -> npt.NDArray[np.float64] | None:
    """Return the colour of each file as far as its mode tells it; None where the stored pixels have it themselves."""
    if store.manifest.channels > 1:
        return None
    return np.array([0.0 if is_grey(mode) else np.nan for mode in store.index["mode"].iloc[rows]])


def _draw(rows: Rows, generator: np.random.Generator) -> Rows:
    if len(rows) <= MOST_ROWS:
        return rows
    return np.sort(generator.choice(rows, size=MOST_ROWS, replace=False))
