"""What an ensemble says of the images that it is measured on, kept in the study: figures are drawn from it again.

Of a locked test that is kept, drawing a figure opens nothing: the ensemble is not asked again.
"""

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from consilia.bundle.document import BundleDocument
from consilia.config.records import Probabilities, Rows
from consilia.ensemble.by_column import read_groups
from consilia.ensemble.candidates import load_candidates
from consilia.ensemble.fitting import fit_recipe
from consilia.errors import DataError, StudyError
from consilia.files import write_atomically
from consilia.metrics.patients import FEWEST_PATIENTS, count_in_words
from consilia.metrics.subgroups import Groups, Scored, Subgroups, score_subgroups
from consilia.predict.predictor import EnsemblePredictor
from consilia.report.figures import Shown
from consilia.study.measure import positive_class, predict_shown
from consilia.study.opened import OpenStudy

_KEY = b"consilia.scores"
_MOST_COLUMNS, _MOST_GROUPS = 6, 8  # that a report looks into without being asked
_FILE_FACTS = ("kind", "format", "mode", "width", "height")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageScores:
    """What an ensemble says of some images, and which they are."""

    split: str  # "test": the locked one; "cross_fitted": each image by an ensemble that did not see its fold
    rows: Rows  # (n_images,) of the image store
    shown: Shown  # the same images


def measure_test(study: OpenStudy, predictor: EnsemblePredictor) -> ImageScores:
    """Return what an ensemble says of the locked test, which the caller has opened."""
    rows = study.folds.test
    positive = positive_class(study.plan.data, study.store)
    shown = predict_shown(predictor, study.store, rows, positive=positive, title=f"{study.plan.data.name}, test")
    return ImageScores(split="test", rows=rows, shown=shown)


def measure_cross_fitted(study: OpenStudy, document: BundleDocument) -> ImageScores:
    """Return what ensembles by the document's recipe say, each of the fold that it was not selected on.

    Its members are the trials that the document ships, by their out-of-fold predictions.
    """
    trials = list(study.records().values())
    finished = load_candidates(trials, folder=study.folder, store=study.store, folds=study.folds)
    fitted = fit_recipe(document.provenance.recipe, finished.candidates, finished.truth, seed=study.plan.seed)
    places = [finished.numbers.index(member.trial) for member in document.members]
    counts = count_in_words(len(finished.truth.labels), len(np.unique(finished.truth.patients)))
    shown = Shown(
        probabilities=fitted.cross_fitted,
        labels=finished.truth.labels,
        patients=finished.truth.patients,
        classes=document.classes,
        members=finished.candidates[places],
        weights=np.array([member.weight for member in document.members]),
        trials=tuple(member.trial for member in document.members),
        title=f"{study.plan.data.name}, cross-fitted: {counts}",
        positive=positive_class(study.plan.data, study.store),
    )
    return ImageScores(split="cross_fitted", rows=study.folds.pool, shown=shown)


def write_scores(study: OpenStudy, document: BundleDocument, scores: ImageScores) -> None:
    """Write `predictions/<recipe>.parquet`: image_id, label, patient_id, p_CLASS and trial_NUMBER_CLASS by number."""
    shown = scores.shown
    columns = {"image_id": scores.rows, "label": shown.labels, "patient_id": shown.patients}
    said = {"p": shown.probabilities}
    said |= {f"trial_{number}": each for number, each in zip(shown.trials, shown.members, strict=True)}
    frame = pd.DataFrame({**columns, **{f"{name}_{k}": p[:, k] for name, p in said.items() for k in range(p.shape[1])}})
    about = {
        "bundle": _identity(document),
        "split": scores.split,
        "title": shown.title,
        "positive": shown.positive,
    }
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata({_KEY: json.dumps(about)})
    path = study.folder.predictions(document.provenance.recipe.name)
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))


def read_scores(study: OpenStudy, document: BundleDocument) -> ImageScores | None:
    """Read what `write_scores` wrote; None where there is no such file, or one of another ensemble of this name.

    Raises:
        StudyError: The file is damaged; names it.
    """
    path = study.folder.predictions(document.provenance.recipe.name)
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[_KEY])
        if about["bundle"] != _identity(document):
            return None
        return _restore(table.to_pandas(), about, document)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path} is damaged ({error}). Delete it: it is written again.") from error


def find_gaps(study: OpenStudy, scores: ImageScores) -> tuple[Subgroups, ...]:
    """Return the scores by each column of the data that says something: up to six, of two to eight groups each.

    A column whose groups each hold images of one class only is left out, since it is the label by another name; so is
    one without two groups of 30 patients, of which no gap could be claimed.
    """
    shown, store = scores.shown, study.store
    scored = Scored(
        probabilities=shown.probabilities, labels=shown.labels, patients=shown.patients, classes=shown.classes
    )
    found: list[Subgroups] = []
    names = [name for name in store.index.columns if name.startswith(("meta_", "tag_"))]
    for name in [*(name.partition("_")[2] for name in names), *_FILE_FACTS]:
        try:
            groups = read_groups(store, scores.rows, name)
        except DataError:  # too many groups: names and times
            continue
        if _says_something(groups, shown) and len(found) < _MOST_COLUMNS:
            found.append(score_subgroups(scored, groups, seed=study.plan.seed))
    return tuple(found)


def read_subgroups(study: OpenStudy, document: BundleDocument) -> tuple[Subgroups, ...] | None:
    """Return what report.json holds of `find_gaps` for an ensemble; None: nothing, or of another one of its name.

    Raises:
        StudyError: The file is damaged; names it.
    """
    path = study.folder.report
    try:
        ensembles = json.loads(path.read_text(encoding="utf-8"))["ensembles"] if path.is_file() else {}
        entry = ensembles.get(document.provenance.recipe.name, {})
        is_same = entry.get("evaluations") == [each.to_json() for each in document.evaluations]
        if not is_same or "subgroups" not in entry:
            return None
        return tuple(Subgroups.model_validate(each) for each in entry["subgroups"])
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path} is damaged ({error}). Delete it: it is written again.") from error


def _says_something(groups: Groups, shown: Shown) -> bool:
    n_groups = len(groups.names)
    if not 2 <= n_groups <= _MOST_GROUPS:
        return False
    inside = [groups.codes == number for number in range(n_groups)]
    n_large = sum(len(np.unique(shown.patients[rows])) >= FEWEST_PATIENTS for rows in inside)
    return n_large >= 2 and any(len(np.unique(shown.labels[rows])) > 1 for rows in inside)


def _restore(frame: pd.DataFrame, about: dict[str, object], document: BundleDocument) -> ImageScores:
    trials = tuple(member.trial for member in document.members)

    def columns(name: str) -> Probabilities:
        said: npt.NDArray[np.float64] = frame[[f"{name}_{k}" for k in range(len(document.classes))]].to_numpy()
        return said

    shown = Shown(
        probabilities=columns("p"),
        labels=frame["label"].to_numpy(np.int64),
        patients=frame["patient_id"].to_numpy().astype(np.str_),
        classes=document.classes,
        members=np.stack([columns(f"trial_{number}") for number in trials]),
        weights=np.array([member.weight for member in document.members]),
        trials=trials,
        title=str(about["title"]),
        positive=int(str(about["positive"])),
    )
    return ImageScores(split=str(about["split"]), rows=frame["image_id"].to_numpy(np.int64), shown=shown)


def _identity(document: BundleDocument) -> str:
    members = " ".join(f"{member.trial}:{member.weight}" for member in document.members)
    return f"{document.name} {document.provenance.created} {members}"
