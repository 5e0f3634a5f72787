"""The audit: count a prepared data set, look for leaks, copies and shortcuts, and say what to do."""

import numpy as np

from consilia.audit.counts import count_images, count_intensities, count_values, describe_columns, spread
from consilia.audit.document import Audit, Finding
from consilia.audit.duplicates import collect_duplicates, find_crossing_patients
from consilia.audit.findings import (
    judge_duplicates,
    judge_leaks,
    judge_reading,
    judge_shortcuts,
    judge_sizes,
    sort_findings,
)
from consilia.audit.shortcuts import find_shortcuts
from consilia.config.card import DataCard
from consilia.data.duplicates import find_duplicates
from consilia.data.folds import FoldPlan, make_folds
from consilia.data.groups import merge_duplicates
from consilia.data.store.image_store import ImageStore
from consilia.errors import DataError

DEFAULT_K = 5  # of `config.study.FoldsPlan`


def audit(
    store: ImageStore, card: DataCard, folds: FoldPlan | None = None, *, shortcuts: bool = True, seed: int = 0
) -> Audit:
    """Say what a data set holds and what is wrong with it; nothing is changed.

    Time grows about in proportion to the images; pixels are read in chunks.

    Args:
        store: The prepared data set.
        card: What it was prepared from.
        folds: Those of a study; None: those that a study would make by default.
        shortcuts: Whether to try what predicts the label by itself, which takes longest.
        seed: Of the folds made here.
    """
    k = DEFAULT_K if folds is None else folds.k
    folds, no_folds = (folds, "") if folds else _try_folds(store, card, k=k, seed=seed)
    locked = (store.index["split"] == "test").to_numpy()
    pool, test = (folds.pool, folds.test) if folds else (np.flatnonzero(~locked), np.flatnonzero(locked))
    groups = folds.group if folds else merge_duplicates(store)
    duplicates = collect_duplicates(store, find_duplicates(store))
    crossing = find_crossing_patients(store)
    found = find_shortcuts(store, pool, groups, seed=seed) if shortcuts else None
    findings = sort_findings(
        judge_leaks(duplicates, crossing, folds, on_leak=card.on_leak),
        judge_sizes(store, groups, pool, test, k=k),
        judge_duplicates(duplicates, crossing),
        judge_shortcuts(found),
        judge_reading(store, card),
    )
    sizes = store.index[["width", "height"]]
    return Audit(
        card=card.name,
        digest=store.digest,
        n_images=len(store),
        classes=store.classes,
        on_leak=card.on_leak,
        findings=_explain_folds(findings, no_folds),
        counts=count_images(store, folds, k=k, no_folds=no_folds),
        left_out=store.manifest.left_out,
        quarantine=store.manifest.quarantine,
        widths=spread(sizes["width"].to_numpy()),
        heights=spread(sizes["height"].to_numpy()),
        n_sizes=len(sizes.drop_duplicates()),
        formats=count_values(store.index["format"]),
        modes=count_values(store.index["mode"]),
        intensities=count_intensities(store),
        columns=describe_columns(store),
        duplicates=duplicates,
        crossing_patients=crossing,
        shortcuts=found,
    )


def _try_folds(store: ImageStore, card: DataCard, *, k: int, seed: int) -> tuple[FoldPlan | None, str]:
    try:
        return make_folds(
            store, k=k, seed=seed, test=card.test, test_fraction=card.test_fraction, on_leak=card.on_leak
        ), ""
    except DataError as error:
        return None, str(error)


def _explain_folds(findings: tuple[Finding, ...], no_folds: str) -> tuple[Finding, ...]:
    """Add why there are no folds, unless another error says it already."""
    if not no_folds or any(each.severity == "error" for each in findings):
        return findings
    reason = Finding(
        severity="error",
        topic="folds",
        sentence=f"No folds can be made: {no_folds}",
        action="A study of this data would stop here.",
    )
    return (reason, *findings)
