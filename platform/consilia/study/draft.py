"""A first card and study for images that nobody has described yet; what the data do not say is asked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from consilia.config.augmentation import POLICIES
from consilia.config.card import DataCard
from consilia.config.frozen import validate
from consilia.data.sources.card import list_images
from consilia.data.sources.listing import ImageTable
from consilia.data.sources.npz import image_shape
from consilia.data.survey.choice import Choice, Decide, Described, because
from consilia.data.survey.layout import find_layout
from consilia.data.survey.pixels import Sample, sample_images
from consilia.data.survey.source import describe_source
from consilia.errors import DataError, UserError
from consilia.files import write_text
from consilia.study.draft_text import commented_yaml

_ABOUT_CARD = "What consilia learns from. data/README.md explains the keys; those left out have their defaults."
_ABOUT_STUDY = "A first search on these images. docs/study-file.md explains every key."
_MOST_PIXELS = 224  # side that pretrained networks have seen
_FIRST_PIXELS = 64  # side of a first search, which shall end on CPUs
_TEST_FRACTION = 0.2  # the card's default
_FEWEST = 3  # patients of a class, or images without patients: one a fold


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A card and a study that uses it, not written yet."""

    card: Mapping[str, Any]  # as its file will hold it
    study: Mapping[str, Any]
    why: Mapping[str, str]  # by dotted key of either file: the comment beside it
    remarks: tuple[str, ...]  # what a person must know of the data

    @property
    def name(self) -> str:
        """Name of the study and of the card."""
        return str(self.card["name"])


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftFiles:
    """What was written."""

    card: Path
    study: Path


def draft_study(images: str | Path, *, decide: Decide, labels: str | Path | None = None, name: str = "") -> Draft:
    """Look at images and labels, and draft a card and a study that can be used as they are.

    Tables are read, some images are decoded, and all are listed as a search lists them. Nothing is written.

    Args:
        images: A folder, or an .npz file.
        decide: Gets every decision with what is proposed and why, and returns the answer.
        labels: A CSV or Parquet file; None: it is looked for, and otherwise the folders' names are the labels.
        name: Of the study and the card; "": that of the folder or the archive.

    Raises:
        DataError: The data cannot be used; names the file, the row or the class.
        UserError: Raised by `decide`, where it cannot answer.
    """
    layout = find_layout(Path(images), None if labels is None else Path(labels), decide)
    source = describe_source(layout, decide)
    called = {"name": name or _as_name(layout.root), "path": str(layout.root)}
    listed = Described(keys=called) | source
    if layout.root.is_file():
        described = listed | _describe_archive(layout.root, decide)
    else:
        described = listed | _describe_pixels(_list(listed), source.keys, decide)
    described = _without_rare(described, decide)
    study = _draft_study(described, _list(described))
    return Draft(
        card=described.keys,
        study=study.keys,
        why={**described.why, **study.why},
        remarks=(*described.remarks, *study.remarks),
    )


def write_draft(draft: Draft, folder: str | Path = ".") -> DraftFiles:
    """Write `<name>_card.yaml` and `<name>.yaml`, with a comment beside each key that was chosen.

    Raises:
        UserError: One of them exists; nothing is written then.
    """
    folder = Path(folder)
    files = DraftFiles(card=folder / f"{draft.name}_card.yaml", study=folder / f"{draft.name}.yaml")
    for file in (files.card, files.study):
        if file.exists():
            raise UserError(f"{file} exists already. Give the study another name (--name), or move the file away.")
    study = {**draft.study, "data": {"card": f"./{files.card.name}"}}
    write_text(files.card, commented_yaml(draft.card, draft.why, title=_ABOUT_CARD))
    write_text(files.study, commented_yaml(study, draft.why, title=f"{_ABOUT_STUDY}\n  consilia search {files.study}"))
    return files


def _describe_pixels(images: ImageTable, listed: Mapping[str, Any], decide: Decide) -> Described:
    sample = sample_images([images.root / file for file in images.files])
    n_sample = f"{len(sample.pictures)} images that were looked at"
    size = min(_MOST_PIXELS, max(8, sample.side))
    keys: dict[str, Any] = {"size": size, "channels": 3 if sample.n_coloured else 1}
    why = {
        "size": f"side of the stored square; the {n_sample} are {sample.shapes} pixels",
        "channels": f"{sample.n_coloured} of the {n_sample} are in colour" if sample.n_coloured else "all are grey",
    }
    if sample.n_without_window:
        keys["window"] = {"kind": "percentiles"}
        why["window"] = f"{sample.n_without_window} of the {n_sample} do not say how they are shown"
    if sample.n_with_frames and "frames" not in listed:
        frames = _propose_frames(sample)
        keys["frames"] = decide(frames)
        why["frames"] = because(frames, keys["frames"])
    remarks = tuple(f"cannot be read: {message}" for message in sample.unreadable)
    return _describe_modality(_propose_modality(sample), decide) | Described(keys=keys, why=why, remarks=remarks)


def _describe_archive(archive: Path, decide: Decide) -> Described:
    height, width, channels = image_shape(archive)
    keys = {"size": max(height, width), "channels": channels}
    why = {"size": f"the archive's images are {height} x {width} pixels"}
    nothing = "an archive does not name its modality, and augmentation depends on it: `other` flips nothing"
    return _describe_modality(_ask_modality(nothing), decide) | Described(keys=keys, why=why)


def _describe_modality(choice: Choice, decide: Decide) -> Described:
    answer = decide(choice)
    return Described(keys={"modality": answer}, why={"modality": because(choice, answer)})


def _propose_modality(sample: Sample) -> Choice:
    found = {each for each in sample.modalities if each is not None}
    if len(found) == 1 == len(sample.modalities):
        return Choice(
            key="modality",
            question="What kind of images are these?",
            value=found.pop(),
            reason=f"DICOM's Modality is {', '.join(sorted(set(sample.tags('Modality'))))}",
            certain=True,
            options=tuple(POLICIES),
        )
    return _ask_modality("the files do not say, and augmentation depends on it: `other` flips nothing")


def _ask_modality(reason: str) -> Choice:
    return Choice(
        key="modality",
        question="What kind of images are these?",
        value="other",
        reason=reason,
        options=tuple(POLICIES),
    )


def _propose_frames(sample: Sample) -> Choice:
    return Choice(
        key="frames",
        question="Which frame of a file with several?",
        value="middle",
        reason=f"{sample.n_with_frames} of {len(sample.pictures)} files that were looked at have several frames",
        options=("first", "middle", "each"),
    )


def _without_rare(described: Described, decide: Decide) -> Described:
    """Leave out the classes that are too rare for three folds and a test, if a person says so.

    Raises:
        DataError: Less than two classes would remain, or the source has no table that could leave some out.
    """
    images = _list(described)
    counts = _count_for_training(images)
    rare = {name: count for name, count in counts.items() if count < _FEWEST}
    if not rare:
        return described
    unit = "patients" if images.has_patients else "images"
    held = ", ".join(f"{name} ({count})" for name, count in rare.items())
    source = described.keys["source"]
    if "columns" not in source or len(counts) - len(rare) < 2:
        raise DataError(
            f"{described.keys['path']}: every class needs {_FEWEST} {unit} or more outside the test split, one a fold, "
            f"but these have fewer: {held}. Add images, or take these classes out."
        )
    choice = Choice(
        key="rare-classes",
        question=f"{held}: fewer than {_FEWEST} {unit} outside the test split. Leave these classes out?",
        value=None,
        reason=f"each of three folds needs one of the {unit}",
        options=("leave_out", "stop"),
    )
    if decide(choice) == "stop":
        raise DataError(f"Stopped: {held} would be left out. Add images of these classes.")
    column = source["columns"]["label"]
    where = {**source.get("where", {}), column: [name for name in counts if name not in rare]}
    why = {"source.where": f"left out, since they are too rare: {held}"}
    return described | Described(keys={"source": {**source, "where": where}}, why=why, remarks=(f"left out: {held}",))


def _count_for_training(images: ImageTable) -> dict[str, int]:
    """Return how many patients of each class are left for the folds; of images without patients, how many images."""
    splits, patients = np.array(images.splits), np.array(images.patients)
    pool = splits != "test"
    counts = {
        name: len(np.unique(patients[pool & (images.labels == number)])) for number, name in enumerate(images.classes)
    }
    if not pool.all():
        return counts
    return {name: count - max(1, round(_TEST_FRACTION * count)) for name, count in counts.items()}


def _draft_study(card: Described, images: ImageTable) -> Described:
    counts = _count_for_training(images)
    unit = "patients" if images.has_patients else "images"
    rarest = min(counts, key=lambda name: counts[name])
    k = 5 if counts[rarest] >= 50 and len(images) >= 1000 else 3
    size = min(_FIRST_PIXELS, int(card.keys["size"]))
    keys = {
        "name": card.keys["name"],
        "seed": 0,
        "data": {},  # the card, whose file has its name when it is written
        "folds": {"k": k},
        "spaces": ["tiny"],
        "search": {"trials": 10},
        "training": {"epochs": 12, "batch_size": 16 if len(images) < 500 else 32, "image_size": size},
        "ensemble": "greedy_calibrated",
    }
    why = {
        "folds.k": f"the rarest class, {rarest}, has {counts[rarest]} {unit} outside the test split",
        "spaces": "small networks for CPUs; with a GPU: [resnet, densenet, efficientnet], training.weights: imagenet",
        "search.trials": "for a first look; 40 or more for a result",
        "training.epochs": "for a first look; 30 or more for a result",
        "training.image_size": "larger finds smaller things, and takes the square of the time",
    }
    found = f"{len(images)} images of {len(images.classes)} classes: {', '.join(images.classes)}"
    named = f", {len(set(images.patients))} patients" if images.has_patients else ""
    left_out = tuple(f"{each.count} rows are left out, {each.reason}" for each in images.left_out)
    return Described(keys=keys, why=why, remarks=(f"{found}{named}", *left_out))


def _list(described: Described) -> ImageTable:
    return list_images(validate(DataCard, described.keys, where="the drafted card"))


def _as_name(root: Path) -> str:
    """Return a folder's name as one of a study."""
    stem = root.stem if root.is_file() else root.name
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-._") or "images"
