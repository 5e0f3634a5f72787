"""From what was counted to what a person should do: the rules of the audit.

Source: docs/methods.md sections 1, 8 and 9.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from consilia.audit.document import Case, CrossingPatient, Duplicates, Finding, Severity, Shortcut, Shortcuts
from consilia.audit.features import SAVED_AS
from consilia.audit.shortcuts import ALL_COLUMNS
from consilia.config.card import DataCard
from consilia.config.records import Rows
from consilia.data.folds import FoldPlan
from consilia.data.groups import GroupIds
from consilia.data.store.image_store import ImageStore

_FEW_PATIENTS = 30  # of a class in the test split. Source: docs/methods.md section 8
_ORDER: tuple[Severity, ...] = ("error", "warning", "note")
_LEAK: dict[str, tuple[Severity, str]] = {
    "error": (
        "error",
        "Correct the splits or remove the copies; or say in the card what should happen: `on_leak: drop_train` "
        "leaves the training images out, `on_leak: keep` accepts a test that flatters.",
    ),
    "drop_train": (
        "warning",
        "As the card says (on_leak: drop_train), images left out of training: {n}.",
    ),
    "keep": (
        "warning",
        "The card keeps them (on_leak: keep), and the model card says so. Test images that flatter: {n}.",
    ),
}


def sort_findings(*parts: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return all findings, errors first, otherwise in the given order."""
    found = [each for part in parts for each in part]
    return tuple(sorted(found, key=lambda each: _ORDER.index(each.severity)))


def judge_leaks(
    duplicates: Duplicates, crossing: Sequence[CrossingPatient], folds: FoldPlan | None, *, on_leak: str
) -> Iterator[Finding]:
    """Report what ties the test split to the rest: patients, copies, pictures that look alike."""
    severity, action = _LEAK[on_leak]
    n_bound = "these" if folds is None else f"{len(folds.dropped) + len(folds.bound):,}"
    action = action.replace("{n}", n_bound)
    patients = [each for each in crossing if "test" in each.files]
    if patients:
        names = _some(repr(each.patient) for each in patients)
        yield Finding(
            severity=severity,
            topic="leak",
            sentence=f"{_count(patients, 'patient')} with images in the test split and outside it: {names}.",
            action=action,
        )
    for cases, what in (
        (duplicates.exact, "group{s} of exact duplicates"),
        (duplicates.near, "near-duplicate pair{s}"),
    ):
        leaking = [case for case in cases if case.reaches_test]
        if leaking:
            yield Finding(
                severity=severity,
                topic="leak",
                sentence=f"{_count(leaking, what)} across the test split and the rest, such as {_files(leaking[0])}.",
                action=action,
            )


def judge_duplicates(duplicates: Duplicates, crossing: Sequence[CrossingPatient]) -> Iterator[Finding]:
    """Report label conflicts, and what is merged into groups without harm."""
    conflicts = [case for case in duplicates.cases if case.conflicts]
    if conflicts:
        exact = sum(case.kind == "exact" for case in conflicts)
        yield Finding(
            severity="warning",
            topic="label conflict",
            sentence=f"{_count(conflicts, 'picture{s}')} with several labels ({exact} exact, {len(conflicts) - exact} "
            f"near), such as {_files(conflicts[0])}.",
            action="Look at each in audit.html and correct the table: at most one of the labels is right.",
        )
    strangers = [case for case in duplicates.cases if len({each.patient for each in case.images}) > 1]
    if strangers:
        yield Finding(
            severity="warning",
            topic="patients",
            sentence=f"{_count(strangers, 'picture{s}')} under several patients, such as {_files(strangers[0])}.",
            action="One person may have two numbers, or a file the wrong one: look at each in audit.html. These "
            "patients are kept in one fold.",
        )
    if duplicates.exact:
        between = [case for case in duplicates.exact if case.crosses_splits and not case.reaches_test]
        across = f"; across {_splits(between)}: {len(between)}" if between else ""
        n_images = sum(len(case.images) for case in duplicates.exact)
        yield Finding(
            severity="note",
            topic="duplicates",
            sentence=f"{_count(duplicates.exact, 'group{s}')} of exact duplicates ({n_images:,} images){across}.",
            action="Nothing: copies outside the test split are kept in one fold.",
        )
    if duplicates.near:
        yield Finding(
            severity="note",
            topic="duplicates",
            sentence=f"{_count(duplicates.near, 'near-duplicate pair{s}')}.",
            action="Look at them in audit.html; each pair is kept in one fold.",
        )
    others = [each for each in crossing if "test" not in each.files]
    if others:
        yield Finding(
            severity="note",
            topic="patients",
            sentence=f"{_count(others, 'patient')} with images in train and val.",
            action="Nothing: val joins the cross-validation, which keeps a patient in one fold.",
        )


def judge_sizes(store: ImageStore, groups: GroupIds, pool: Rows, test: Rows, *, k: int) -> Iterator[Finding]:
    """Report classes that are too small, for k folds or for a claim on the test split."""
    labels, patients = store.labels, store.patients
    unit = "patients" if store.manifest.has_patients else "different images"
    for number, name in enumerate(store.classes):
        n_groups = len(np.unique(groups[pool[labels[pool] == number]]))
        if n_groups < k:
            yield Finding(
                severity="error",
                topic="small class",
                sentence=f"Class {name!r} has {n_groups} {unit} (groups) outside the test split, but {k} folds need "
                f"{k}.",
                action=f"Lower folds.k to {n_groups}, merge the class, or add data." if n_groups > 1 else "Add data.",
            )
    few = []
    for number, name in enumerate(store.classes):
        n_patients = len(np.unique(patients[test[labels[test] == number]]))
        few += [f"{name} ({n_patients})"] if n_patients < _FEW_PATIENTS else []
    if few and len(test):
        yield Finding(
            severity="note",
            topic="small test",
            sentence=f"Fewer than {_FEW_PATIENTS} {unit} in the test split: {', '.join(few)}.",
            action="Claim nothing of these classes from this test split.",
        )


def judge_shortcuts(shortcuts: Shortcuts | None) -> Iterator[Finding]:
    """Report what predicts the label without the finding."""
    warned = [each for each in shortcuts.tried if each.warns] if shortcuts else []
    for each in warned:
        was_written = each.is_label and each.origin in ("table", "tag")
        kind = "label" if was_written else "saved" if each.name in SAVED_AS else each.origin
        yield Finding(
            severity="warning",
            topic="shortcut",
            sentence=_sentence(each),
            action=_ADVICE.get(kind, _ADVICE[""]),
        )


_ADVICE = {
    "label": "If it was written because of the finding (a measurement, a report), ignore this. Otherwise it gives the "
    "label away: see whether the images show it before you train.",
    "border": "See whether markers, text, bars or collimation differ between the classes; anatomy at the border "
    "counts too. Crop or mask what is not anatomy.",
    "file": "The classes may come from different sources, and padding (`fit: pad`) shows a network the shape of the "
    "file. See whether `fit: crop` is possible, and test on data of one source.",
    "saved": "The classes may come from different sources, and how a file was saved (compression, colours) may show a "
    "network which. Take files of one kind, or both kinds in every class, and test on data of one source.",
    "all": "See which of them do, together if none alone, and whether the images show them. Balance them, or test on "
    "data in which they do not go with the label.",
    "": "See whether the images show it (site, scanner, view); a network may learn it in place of the finding. "
    "Balance it, or test on data in which it does not go with the label.",
}


def judge_reading(store: ImageStore, card: DataCard) -> Iterator[Finding]:
    """Report what was left out, and what the card leaves unknown."""
    manifest = store.manifest
    if manifest.quarantine:
        reasons = _some(each.file for each in manifest.quarantine)
        yield Finding(
            severity="warning",
            topic="unreadable",
            sentence=f"{_count(manifest.quarantine, 'file{s}')} could not be read and left out: {reasons}.",
            action="See the reasons below; if they are of one class or site, repair them.",
        )
    for each in manifest.left_out:
        yield Finding(
            severity="note",
            topic="left out",
            sentence=f"{each.count:,} left out: {each.reason}.",
            action="Nothing, if that is what the card is meant to do.",
        )
    if not manifest.has_patients:
        yield Finding(
            severity="note",
            topic="patients",
            sentence="The card names no patients (group: none): images of one patient may be trained and tested on.",
            action="Name a patient column if there is one; else the model card says so.",
        )
    if card.test == "none" and not (store.index["split"] == "test").any():
        yield Finding(
            severity="note",
            topic="no test",
            sentence="There is no test split (test: none).",
            action="Every number will be an internal estimate; plan an external test.",
        )


def _sentence(shortcut: Shortcut) -> str:
    value = f"AUC {shortcut.auc.value:.2f}, 95 % interval {shortcut.auc.low:.2f} to {shortcut.auc.high:.2f}"
    best = f"; class {shortcut.best_class!r} {shortcut.best_auc.value:.2f}"
    if shortcut.best_auc.value < shortcut.auc.value + 0.005:
        best = ""
    what = {"border": "The border of the picture alone", "all": f"{ALL_COLUMNS.capitalize()}"}.get(
        shortcut.origin, f"{_ORIGINS.get(shortcut.origin, '')}{shortcut.name!r} alone"
    )
    nearly, predicts = ("nearly are", "predict") if shortcut.origin == "all" else ("nearly is", "predicts")
    return f"{what} {nearly if shortcut.is_label else predicts} the label ({value}{best})."


_ORIGINS = {"table": "Column ", "tag": "DICOM tag ", "file": "Property "}


def _count(items: Sequence[object], what: str) -> str:
    plural = "" if len(items) == 1 else "s"
    return f"{len(items):,} {what.format(s=plural) if '{s}' in what else what + plural}"


def _some(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    more = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def _files(case: Case) -> str:
    return " and ".join(f"{each.file} ({each.split or 'no split'}, {each.label})" for each in case.images[:2])


def _splits(cases: Sequence[Case]) -> str:
    return " and ".join(sorted({split or "no split" for case in cases for split in case.splits}))
