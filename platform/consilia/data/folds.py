"""Cross-validation folds and the locked test split: stratified by class, grouped by patient, never leaking.

Source: docs/methods.md section 1; scikit-learn's StratifiedGroupKFold from release 1.9 on.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from consilia.config.records import DROPPED, LOCKED, Labels, Rows
from consilia.data.groups import GroupIds, merge_duplicates, refuse_crossing
from consilia.data.store.image_store import ImageStore
from consilia.errors import DataError
from consilia.files import sha256_of_json, write_atomically

OnLeak = Literal["error", "drop_train", "keep"]
_COLUMNS = ["image_id", "patient_id", "label", "split", "fold", "group"]
_SHUFFLES = 20
_ON_LEAK: dict[str, OnLeak] = {"error": "error", "drop_train": "drop_train", "keep": "keep"}
_WAYS_OUT = (
    "Images of the test split must not be trained on: correct the splits, or say in the card `on_leak: drop_train` "
    "(such training images are left out) or `on_leak: keep` (they stay, and the model card says that the test scores "
    "may be too good)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldPlan:
    """Which images are validated together, and which are locked away for the test."""

    digest: str  # of k, seed, on_leak, store, and the fold and group of every image
    store_digest: str
    k: int
    seed: int
    on_leak: OnLeak  # what was done with the pool's images that are bound to test images
    fold: npt.NDArray[np.int64] = field(compare=False)  # (n,) 0 ... k-1, LOCKED or DROPPED; see `digest`
    group: GroupIds = field(compare=False)  # (n,) of one patient, or sharing a picture; see `digest`

    def validation(self, fold: int) -> Rows:
        """Rows held out by fold 0 ... k-1, ascending."""
        return np.flatnonzero(self.fold == self._checked(fold))

    def training(self, fold: int) -> Rows:
        """Rows of the pool outside `fold`, ascending."""
        return np.flatnonzero((self.fold != self._checked(fold)) & (self.fold >= 0))

    @property
    def pool(self) -> Rows:
        """Rows of all folds, ascending."""
        return np.flatnonzero(self.fold >= 0)

    @property
    def test(self) -> Rows:
        """Rows of the locked test split, ascending; empty if the data has no test split."""
        return np.flatnonzero(self.fold == LOCKED)

    @property
    def dropped(self) -> Rows:
        """Rows that are neither trained on nor tested on, because they are bound to test images; ascending."""
        return np.flatnonzero(self.fold == DROPPED)

    @property
    def bound(self) -> Rows:
        """Rows of the test split that share a patient or a picture with the pool; empty unless `on_leak` is keep."""
        return self.test[np.isin(self.group[self.test], self.group[self.pool])]

    @property
    def kept(self) -> Rows:
        """Rows of the pool that share a patient or a picture with the test split; empty unless `on_leak` is keep."""
        return self.pool[np.isin(self.group[self.pool], self.group[self.test])]

    def save(self, path: Path, store: ImageStore) -> None:
        """Write image_id, patient_id, label, split ("train", "test" or "left out"), fold and group to Parquet."""
        table = pa.Table.from_pandas(_frame(store, self.fold, self.group), preserve_index=False)
        metadata = {
            "digest": self.digest,
            "store": self.store_digest,
            "k": str(self.k),
            "seed": str(self.seed),
            "on_leak": self.on_leak,
        }
        table = table.replace_schema_metadata({f"consilia.{key}": text for key, text in metadata.items()})
        write_atomically(path, lambda temporary: pq.write_table(table, temporary))

    def _checked(self, fold: int) -> int:
        if not 0 <= fold < self.k:
            raise IndexError(f"fold must be 0 ... {self.k - 1}, but got {fold}")
        return fold


def make_folds(
    store: ImageStore,
    *,
    k: int,
    seed: int,
    test: Literal["auto", "none"],
    test_fraction: float,
    on_leak: OnLeak = "error",
) -> FoldPlan:
    """Divide the images into k folds and a locked test split.

    The test split is the source's if it has one; else, with `test="auto"`, about `test_fraction` of the
    patients, stratified. Patients that share a picture, exactly or nearly, are kept together, so only a test split
    that the source brings can part them. The source's validation images join the folds.

    Args:
        store: The data set.
        k: Number of folds, at least 2.
        seed: Decides the shuffle; the same seed gives the same folds.
        test: Whether a test split is made if the source has none.
        test_fraction: Share of the patients in a test split made here, in (0, 1).
        on_leak: What to do with other images that share a patient or a picture with the source's test images:
            refuse them, leave them out, or keep them, which makes the test scores too good.

    Raises:
        DataError: A patient or a picture is in the test split and outside it, or a class has fewer groups of
            patients than k.
    """
    if k < 2:
        raise DataError(f"k must be at least 2, but got {k}.")
    groups = merge_duplicates(store)
    locked = (store.index["split"] == "test").to_numpy()
    dropped = np.zeros(len(store), dtype=np.bool_)
    if on_leak == "error":
        part = np.where(locked, LOCKED, 0)
        refuse_crossing(
            store, part, groups=groups, among=np.arange(len(store)), what="the test split", remedy=_WAYS_OUT
        )
    if on_leak == "drop_train":
        dropped = ~locked & np.isin(groups, groups[locked])
    if test == "auto" and not locked.any():
        locked = _draw_test(store, groups, test_fraction=test_fraction, seed=seed)
    _check_groups(store, groups, ~(locked | dropped), k)
    fold = np.where(dropped, DROPPED, LOCKED)
    pool = np.flatnonzero(~(locked | dropped))
    fold[pool] = _split(store.labels[pool], groups[pool], k=k, seed=seed)
    plan = _plan(k, seed, on_leak, store.digest, _frame(store, fold, groups))
    check_no_leak(plan, store)
    return plan


def divide_again(folds: FoldPlan, store: ImageStore, *, seed: int) -> FoldPlan:
    """Divide the images of all folds into as many others: groups stay whole, and the test split stays as it is.

    Args:
        folds: The division to differ from.
        store: The data set that it was made for.
        seed: Decides the shuffle; the same seed gives the same folds.

    Raises:
        DataError: No other division was found: there are too few groups.
    """
    pool = folds.pool
    for attempt in range(_SHUFFLES):
        state = int(np.random.SeedSequence([seed, attempt]).generate_state(1)[0])
        fold = folds.fold.copy()
        fold[pool] = _split(store.labels[pool], folds.group[pool], k=folds.k, seed=state)
        if len(np.unique(folds.fold[pool] * folds.k + fold[pool])) > folds.k:  # not the same folds in another order
            plan = _plan(folds.k, seed, folds.on_leak, store.digest, _frame(store, fold, folds.group))
            check_no_leak(plan, store)
            return plan
    raise DataError(
        f"{_SHUFFLES} other shuffles of the {len(np.unique(folds.group[pool]))} groups of patients gave the same "
        f"k = {folds.k} folds again. There is no other division to confirm trials with: set search.confirm to 0."
    )


def load_folds(path: Path) -> FoldPlan:
    """Read folds that `FoldPlan.save` wrote.

    Raises:
        DataError: The file is missing, damaged, or was changed after it was written.
    """
    try:
        table = pq.read_table(path)
        metadata = {key.decode(): text.decode() for key, text in (table.schema.metadata or {}).items()}
        stored, store_digest = metadata["consilia.digest"], metadata["consilia.store"]
        k, seed = int(metadata["consilia.k"]), int(metadata["consilia.seed"])
        on_leak = _ON_LEAK[metadata["consilia.on_leak"]]
        plan = _plan(k, seed, on_leak, store_digest, table.to_pandas()[_COLUMNS])
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(f"{path} cannot be read as folds: {error}") from error
    if plan.digest != stored:
        raise DataError(
            f"{path} was changed after it was written: its content does not match its digest. "
            "Restore it; results that were computed with other folds cannot be combined with it."
        )
    return plan


def check_no_leak(folds: FoldPlan, store: ImageStore) -> None:
    """Refuse folds that do not belong to `store`, or in which a patient or a picture crosses folds.

    Nothing may cross to the test split either, unless the folds were made with `on_leak: keep`. Near duplicates are
    known by the groups that are stored with the folds.

    Raises:
        DataError: Names the patient or the files.
    """
    if folds.store_digest != store.digest or len(folds.fold) != len(store):
        raise DataError(
            f"The folds were made for data {folds.store_digest[:16]} with {len(folds.fold)} images, but "
            f"{store.folder} is {store.digest[:16]} with {len(store)}. "
            "Use the data they were made for, or start a new study."
        )
    among = folds.pool if folds.on_leak == "keep" else np.flatnonzero(folds.fold != DROPPED)
    refuse_crossing(store, folds.fold, groups=folds.group, among=among, what="a fold", remedy="Make the folds again.")


def _frame(store: ImageStore, fold: npt.NDArray[np.int64], groups: GroupIds) -> pd.DataFrame:
    frame = store.index[["image_id", "patient_id", "label"]].copy()
    frame["split"] = np.select([fold == LOCKED, fold == DROPPED], ["test", "left out"], "train")
    frame["fold"] = fold
    frame["group"] = groups
    return frame


def _plan(k: int, seed: int, on_leak: OnLeak, store_digest: str, frame: pd.DataFrame) -> FoldPlan:
    rows = {name: frame[name].tolist() for name in _COLUMNS}
    digest = sha256_of_json({"k": k, "seed": seed, "on_leak": on_leak, "store": store_digest, "rows": rows})
    fold, group = (frame[name].to_numpy(np.int64, copy=True) for name in ("fold", "group"))
    fold.flags.writeable = group.flags.writeable = False
    return FoldPlan(digest=digest, store_digest=store_digest, k=k, seed=seed, on_leak=on_leak, fold=fold, group=group)


def _check_groups(store: ImageStore, groups: GroupIds, pool: npt.NDArray[np.bool_], k: int) -> None:
    labels = store.labels
    for number, name in enumerate(store.classes):
        count = len(np.unique(groups[pool & (labels == number)]))
        if count < k:
            unit = "patients" if store.manifest.has_patients else "different images"
            advice = f"Lower k to {count}, or add data." if count >= 2 else "Add data."
            raise DataError(
                f"{store.folder}: class {name!r} has {count} {unit} (groups) outside the test split, but "
                f"k = {k} folds need {k} or more. {advice}"
            )


def _draw_test(store: ImageStore, groups: GroupIds, *, test_fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Lock about `test_fraction` of the groups of every class, at least one, by seed."""
    generator = np.random.default_rng([seed, 0x7E57])  # apart from the folds' own shuffle
    locked: list[int] = []
    for members in _strata(store.labels, groups):
        count = max(1, round(test_fraction * len(members)))
        if len(members) - count < 1:
            continue  # `_check_groups` refuses the class by name
        locked.extend(generator.permutation(members)[:count].tolist())
    return np.isin(groups, locked)


def _strata(labels: Labels, groups: GroupIds) -> Iterable[list[int]]:
    """Return the groups of each class; a group of several classes counts for the rarest of them in the data."""
    frequency = np.bincount(labels)
    rarest: dict[int, int] = {}
    for group, label in zip(groups.tolist(), labels.tolist(), strict=True):
        current = rarest.setdefault(group, label)
        if (frequency[label], label) < (frequency[current], current):
            rarest[group] = label
    strata: defaultdict[int, list[int]] = defaultdict(list)
    for group, label in sorted(rarest.items()):
        strata[label].append(group)
    return [strata[label] for label in sorted(strata)]


def _split(labels: Labels, groups: GroupIds, *, k: int, seed: int) -> npt.NDArray[np.int64]:
    """Shuffle until every fold holds every class; patients with images of several classes can make that impossible."""
    from sklearn.model_selection import StratifiedGroupKFold  # it takes half a second, and folds are mostly read

    fold = np.empty(len(labels), dtype=np.int64)
    n_classes = len(np.unique(labels))
    for attempt in range(_SHUFFLES):
        state = int(np.random.SeedSequence([seed, attempt]).generate_state(1)[0])
        splitter = StratifiedGroupKFold(n_splits=k, shuffle=True, random_state=state)
        for number, (_, held_out) in enumerate(splitter.split(labels, labels, groups)):
            fold[held_out] = number
        if all(len(np.unique(labels[fold == number])) == n_classes for number in range(k)):
            return fold
    raise DataError(
        f"None of {_SHUFFLES} divisions into k = {k} folds gives every fold every class: too many patients "
        "have images of several classes. Lower k."
    )
