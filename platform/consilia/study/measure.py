"""A finished ensemble on a card's images or a study's locked test: evaluated, compared with another one, drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context

from consilia.bundle.evaluation import Evaluation
from consilia.bundle.store_check import refuse_seen
from consilia.config.card import DataCard
from consilia.config.frozen import Frozen
from consilia.config.records import Probabilities, Rows
from consilia.data.store.image_store import ImageStore
from consilia.ensemble.by_column import read_groups
from consilia.ensemble.evaluate import NO_PATIENTS, evaluate_groups
from consilia.errors import DataError
from consilia.files import write_atomically
from consilia.metrics.paired import PairedMetric, compare_paired
from consilia.metrics.patients import FEWEST_PATIENTS, count_in_words
from consilia.metrics.scores import softmax
from consilia.metrics.subgroups import Subgroups
from consilia.predict.loading import load_predictor
from consilia.predict.predictor import BATCH_SIZE, EnsemblePredictor, Progress
from consilia.report.figures import Drawing, Shown, draw_figures, kinds_of
from consilia.study.measured import choose_images, locked_test
from consilia.study.opened import OpenStudy
from consilia.study.test_access import log_opening
from consilia.study.view import Steps, StepsView, no_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class CardEvaluation:
    """What an ensemble is worth on a card's images, or on a study's locked test."""

    evaluation: Evaluation  # of all images
    subgroups: tuple[Subgroups, ...]  # by each column that was asked for


class Comparison(Frozen):
    """Two ensembles, measured on the same images."""

    first: str  # name of the ensemble
    second: str
    images: int
    patients: int
    metrics: tuple[PairedMetric, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureFiles:
    """What was drawn."""

    files: tuple[Path, ...]  # NAME.svg, NAME.png and NAME.parquet of each figure
    notes: tuple[str, ...]  # which images they show, and what a reader must know of earlier openings of the test


def evaluate_on_card(
    bundle: str | Path,
    card: DataCard | OpenStudy,
    *,
    by: Sequence[str] = (),
    stores: str | Path = "stores",
    device: str = "auto",
    steps: Steps = no_steps,
) -> CardEvaluation:
    """Evaluate on the card's test split, or on all images of a card without one, and by groups of images.

    Of a card without a test split whose images are those of the ensemble's own study, the study's locked test is
    taken. Any other image that the ensemble was trained on is refused. Whenever the test is a study's, the study's list
    of openings gets a line.

    Args:
        bundle: Folder of the ensemble.
        card: Of the images; or a study, whose locked test is taken.
        by: Columns to group by, such as "sex" or "age=18,40,65".
        stores: Folder of the image stores, or its URI.
        device: A torch device such as "cpu" or "cuda:0"; "auto" takes the best one.
        steps: Told what is being done, and how far it is.

    Raises:
        BundleError: The bundle is damaged.
        DataError: The classes differ, images were trained on, or a column cannot be grouped by.
    """
    steps("loading the ensemble", 0, 0)
    predictor = load_predictor(bundle, device=device)
    images = choose_images(card, [(Path(bundle), predictor)], stores=stores, view=StepsView(steps))
    groups = [read_groups(images.store, images.rows, each) for each in by]  # a wrong name must not open the test split
    notes, (split,) = images.open(), images.splits
    evaluation, subgroups = evaluate_groups(
        predictor, images.store, images.rows, groups, split=split, bound=images.bound, progress=_predicting(steps)
    )
    for note in notes:
        evaluation = evaluation.with_note(note)
    return CardEvaluation(evaluation=evaluation, subgroups=subgroups)


def compare_on_card(
    first: str | Path,
    second: str | Path,
    card: DataCard | OpenStudy,
    *,
    stores: str | Path = "stores",
    device: str = "auto",
    steps: Steps = no_steps,
) -> Comparison:
    """Compare two ensembles on the images that `evaluate_on_card` takes, if neither has seen them.

    Of two studies with different locked tests of the same images, those in both are taken. Opening a locked test is
    written to each study that it belongs to.

    Args:
        first: Folder of the ensemble that is judged.
        second: Folder of the one that it is compared with.
        card: As of `evaluate_on_card`.
        stores: Folder of the image stores, or its URI.
        device: As of `evaluate_on_card`.
        steps: As of `evaluate_on_card`.

    Raises:
        BundleError: A bundle is damaged.
        DataError: The classes differ, images are read differently, or images were trained on.
    """
    bundles = (Path(first), Path(second))
    steps("loading the ensembles", 0, 0)
    predictors = [load_predictor(bundle, device=device) for bundle in bundles]
    _refuse_unlike(*predictors)
    images = choose_images(card, list(zip(bundles, predictors, strict=True)), stores=stores, view=StepsView(steps))
    opened, splits, store, rows = images.open(), images.splits, images.store, images.rows
    one, two = (predictor.predict_store(store, rows, progress=_predicting(steps)) for predictor in predictors)
    steps("comparing with intervals", 0, 0)
    notes = (*_notes(store, rows), *opened)
    if splits[0] != splits[1]:
        own = bundles[splits.index("test")]
        notes = (*notes, f"The images are the test split of {own}'s own data; the other has never seen them.")
    return Comparison(
        first=predictors[0].document.name,
        second=predictors[1].document.name,
        images=len(rows),
        patients=len(np.unique(store.patients[rows])),
        metrics=compare_paired(one, two, store.labels[rows], store.patients[rows]),
        notes=notes,
    )


def write_figures(
    bundle: str | Path,
    card: DataCard | OpenStudy,
    *,
    out: str | Path,
    stores: str | Path = "stores",
    device: str = "auto",
    steps: Steps = no_steps,
) -> FigureFiles:
    """Draw the ensemble on the images that `evaluate_on_card` takes.

    Args:
        bundle: Folder of the ensemble.
        card: As of `evaluate_on_card`.
        out: Folder for NAME.svg, NAME.png and, with the numbers behind them, NAME.parquet.
        stores: Folder of the image stores, or its URI.
        device: As of `evaluate_on_card`.
        steps: As of `evaluate_on_card`.

    Raises:
        BundleError: The bundle is damaged.
        DataError: The classes differ, or images were trained on.
    """
    steps("loading the ensemble", 0, 0)
    predictor = load_predictor(bundle, device=device)
    images = choose_images(card, [(Path(bundle), predictor)], stores=stores, view=StepsView(steps))
    described = card.plan.data if isinstance(card, OpenStudy) else card
    positive = positive_class(described, images.store)  # a wrong name must not open the test split
    notes, (split,) = images.open(), images.splits
    title = f"{images.store.manifest.card}, {split}"
    shown = predict_shown(predictor, images.store, images.rows, positive=positive, title=title, steps=steps)
    files: list[Path] = []
    steps("drawing figures", 0, len(kinds_of(shown)))
    for done, (name, drawing) in enumerate(draw_figures(shown), start=1):
        files += _write(Path(out) / name, drawing)
        steps("drawing figures", done, len(kinds_of(shown)))
    return FigureFiles(files=tuple(files), notes=notes)


def predict_shown(
    predictor: EnsemblePredictor,
    store: ImageStore,
    rows: Rows,
    *,
    positive: int,
    title: str,
    steps: Steps = no_steps,
) -> Shown:
    """Return what figures show of an ensemble on rows of a store; the title gets the number of images."""
    patients = store.patients[rows]
    return Shown(
        probabilities=predictor.predict_store(store, rows, progress=_predicting(steps)),
        labels=store.labels[rows],
        patients=patients,
        classes=predictor.classes,
        members=_members(predictor, store, rows, steps),
        weights=predictor.networks.combination.shares,
        trials=tuple(member.trial for member in predictor.document.members),
        title=f"{title}: {count_in_words(len(rows), len(np.unique(patients)))}",
        positive=positive,
    )


def positive_class(card: DataCard, store: ImageStore) -> int:
    """Return the number of the card's positive class; where it names none, of the rarest, among equals the last.

    Raises:
        DataError: The store has no such class.
    """
    if card.positive is None:
        counts = np.bincount(store.labels, minlength=len(store.classes))
        return len(counts) - 1 - int(counts[::-1].argmin())
    if card.positive not in store.classes:
        raise DataError(
            f"Card {card.name}: positive must be one of the classes {', '.join(store.classes)}, but got "
            f"{card.positive!r}. Correct the card."
        )
    return store.classes.index(card.positive)


def show_on_test(study: OpenStudy, predictor: EnsemblePredictor) -> Shown:
    """Return what figures show of a study's ensemble on the locked test split; its opening is written down.

    Raises:
        DataError: The study has no test split, or the ensemble was trained on images of it.
    """
    rows = locked_test(study)
    refuse_seen(predictor.seen, study.store, np.setdiff1d(rows, study.folds.bound))
    positive = positive_class(study.plan.data, study.store)
    remark = log_opening(study.folder, predictor.document)
    title = f"{study.plan.data.name}, test" + (" (opened before)" if remark else "")
    return predict_shown(predictor, study.store, rows, positive=positive, title=title)


def _refuse_unlike(first: EnsemblePredictor, second: EnsemblePredictor) -> None:
    """Refuse ensembles that cannot score the same images into the same classes."""
    if first.classes != second.classes:
        raise DataError(
            f"Both ensembles must know the same classes in the same order, but {first.document.name} knows "
            f"{', '.join(first.classes)}, and {second.document.name} {', '.join(second.classes)}. Compare ensembles of "
            "one task."
        )
    one, two = dict(first.document.reading), dict(second.document.reading)
    if unlike := [name for name in one if one[name] != two[name]]:
        raise DataError(
            f"Both ensembles must read images alike, but {unlike[0]} is {one[unlike[0]]} for {first.document.name} and "
            f"{two[unlike[0]]} for {second.document.name}. Measure each with `consilia evaluate`."
        )


def _notes(store: ImageStore, rows: Rows) -> tuple[str, ...]:
    notes = [] if store.manifest.has_patients else [NO_PATIENTS]
    if len(np.unique(store.patients[rows])) < FEWEST_PATIENTS:
        notes.append(f"No claim: there are fewer than {FEWEST_PATIENTS} patients.")
    for number, name in enumerate(store.classes):
        count = len(np.unique(store.patients[rows][store.labels[rows] == number]))
        if count < FEWEST_PATIENTS:
            notes.append(f"No claim for class {name}: {count} patients have it, under {FEWEST_PATIENTS}.")
    return tuple(notes)


def _members(predictor: EnsemblePredictor, store: ImageStore, rows: Rows, steps: Steps) -> Probabilities:
    """Return what each member says, averaged over its folds, (n_members, n_images, n_classes)."""
    said = []
    for start in range(0, len(rows), BATCH_SIZE):
        steps("predicting by member", start, len(rows))
        said.append(softmax(predictor.networks.logits(store.pixels[rows[start : start + BATCH_SIZE]])).mean(axis=1))
    result: Probabilities = np.concatenate(said, axis=1)
    return result


def _predicting(steps: Steps) -> Progress:
    """Tell how many images are predicted; of all of them, that what was predicted is scored."""
    return lambda done, total: steps("predicting images", done, total) if done < total else steps("scoring", 0, 0)


def _write(stem: Path, drawing: Drawing) -> list[Path]:
    paths = [stem.with_suffix(suffix) for suffix in (".svg", ".png", ".parquet")]
    svg, png, numbers = paths
    with rc_context({"svg.hashsalt": "consilia"}):  # without random names and a date, equal numbers give equal files
        write_atomically(svg, lambda file: drawing.figure.savefig(file, format="svg", metadata={"Date": None}))
    write_atomically(png, lambda file: drawing.figure.savefig(file, format="png", dpi=150))
    write_atomically(numbers, lambda file: drawing.numbers.to_parquet(file))
    return paths
