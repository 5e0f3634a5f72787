"""A study as MLflow's runs: one way, and idempotent.

The study is a run, and each trial that has ended a run below it. What a run holds is tagged last: a trial's run without
that tag was left half by an export that was ended, and is deleted and logged anew. One that has it is never touched
again. The study's own run is written again only when what it holds has changed.
"""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Metric, Run
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from consilia.bundle.document import BundleDocument
from consilia.bundle.reading import CARD
from consilia.config.records import TrialRecord
from consilia.config.study import SearchPlan, StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.export.mlflow_model import COLUMN
from consilia.export.mlflow_trials import metrics_of, params_of
from consilia.files import sha256_of_file, sha256_of_json
from consilia.version import __version__

STUDY, TRIAL, CONTENT = "consilia.study", "consilia.trial", "consilia.content"  # tags
MODEL = "model"  # folder of the pyfunc model among the study's artefacts
_MOST_METRICS = 1000  # that MLflow takes in one call
_MOST_RUNS = 50_000  # that it returns in one


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyToLog:
    """A study as it is stored."""

    plan: StudyPlan
    folder: StudyFolder
    records: Mapping[int, TrialRecord]  # by trial
    document: BundleDocument | None  # of the ensemble of its own recipe; None: it is not built

    @property
    def identity(self) -> str:
        """What stays when a study goes on: its name, and its plan without how much is searched."""
        return f"{self.plan.name} {self.plan.model_copy(update={'search': SearchPlan()}).digest}"

    @property
    def bundle(self) -> Path:
        """Folder of the ensemble."""
        return self.folder.bundle(self.plan.ensemble.name)

    @property
    def artefacts(self) -> list[Path]:
        """Files of the study that are there."""
        named = [self.folder.plan, self.folder.report, self.folder.page, self.bundle / CARD]
        return [path for path in named if path.is_file()]

    @property
    def content(self) -> str:
        """SHA-256 of all that the study's own run holds."""
        digest = None if self.document is None else self.document.digest
        return sha256_of_json([digest, *(sha256_of_file(path) for path in self.artefacts)])


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedStudy:
    """What an export has found and added."""

    run: str  # id of the study's run
    is_changed: bool  # the study's run was written now
    n_new: int  # trials that were logged now
    n_known: int  # trials that were there
    n_open: int  # trials that have not ended: a later export takes them
    model: str | None  # URI of the ensemble as a pyfunc model; None: it is not built


def log_study(client: MlflowClient, experiment: str, study: StudyToLog) -> LoggedStudy:
    """Log what MLflow does not hold of a study yet.

    Args:
        client: Of the tracking server.
        experiment: Its id.
        study: What is logged.
    """
    run = _find_or_create(client, experiment, study)
    parent = run.info.run_id
    ended = {str(number): record for number, record in study.records.items() if record.has_ended}
    known = _complete_children(client, experiment, parent)
    for number in ended.keys() - known:
        _log_trial(client, experiment, parent, ended[number], study)
    is_changed = run.data.tags.get(CONTENT) != study.content
    if is_changed:
        _log_results(client, parent, study)
    return LoggedStudy(
        run=parent,
        is_changed=is_changed,
        n_new=len(ended.keys() - known),
        n_known=len(ended.keys() & known),
        n_open=len(study.records) - len(ended),
        model=None if study.document is None else f"runs:/{parent}/{MODEL}",
    )


def _find_or_create(client: MlflowClient, experiment: str, study: StudyToLog) -> Run:
    found = client.search_runs([experiment], f"tags.`{STUDY}` = '{study.identity}'", max_results=1)
    return found[0] if found else client.create_run(experiment, tags={STUDY: study.identity}, run_name=study.plan.name)


def _complete_children(client: MlflowClient, experiment: str, parent: str) -> set[str]:
    """Return the trials whose runs are complete; the others' runs are deleted."""
    runs = client.search_runs([experiment], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent}'", max_results=_MOST_RUNS)
    for run in runs:
        if CONTENT not in run.data.tags:
            client.delete_run(run.info.run_id)
    return {run.data.tags[TRIAL] for run in runs if CONTENT in run.data.tags}


def _log_trial(client: MlflowClient, experiment: str, parent: str, record: TrialRecord, study: StudyToLog) -> None:
    folder = study.folder.trial(record.number)
    ended = int(1000 * folder.record.stat().st_mtime)  # milliseconds since 1970
    tags = {MLFLOW_PARENT_RUN_ID: parent, TRIAL: str(record.number), "consilia.state": record.state}
    if record.reason:
        tags["consilia.reason"] = record.reason
    name = f"trial {record.number} {record.hyperparameters.architecture}"
    started = ended - int(1000 * record.seconds)
    run = client.create_run(experiment, start_time=started, tags=tags, run_name=name).info.run_id
    client.log_batch(run, params=params_of(record))
    _log_metrics(client, run, list(metrics_of(record, folder, metric=study.plan.search.metric, timestamp=ended)))
    client.set_terminated(run, status="FAILED" if record.state == "failed" else "FINISHED", end_time=ended)
    client.set_tag(run, CONTENT, sha256_of_file(folder.record))


def _log_results(client: MlflowClient, run: str, study: StudyToLog) -> None:
    """Log the study's files, its ensemble as a model, and what the ensemble was measured to be worth."""
    content = study.content  # as it was before: what changes meanwhile is for the next export
    for path in study.artefacts:
        client.log_artifact(run, str(path))
    if study.document is not None:
        _log_metrics(client, run, _measured(study.document, int(1000 * study.bundle.stat().st_mtime)))
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / MODEL
            _save_model(study.bundle, model)
            client.log_artifacts(run, str(model), MODEL)
    client.set_terminated(run)
    client.set_tag(run, CONTENT, content)


def _log_metrics(client: MlflowClient, run: str, metrics: Sequence[Metric]) -> None:
    for start in range(0, len(metrics), _MOST_METRICS):
        client.log_batch(run, metrics=metrics[start : start + _MOST_METRICS])


def _measured(document: BundleDocument, timestamp: int) -> list[Metric]:
    """Return the calibrated ensemble's scores on each split, such as `test/log_loss`."""
    return [
        Metric(f"{evaluation.split}/{name}", estimate.value, timestamp, 0)
        for evaluation in document.evaluations
        for name, estimate in evaluation.metrics.items()
        if estimate is not None
    ]


def _save_model(bundle: Path, path: Path) -> None:
    """Write a pyfunc model of the bundle; what MLflow's import remarks about its own types is no concern of ours."""
    with warnings.catch_warnings(action="ignore"):
        import mlflow.pyfunc
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, Schema

        mlflow.pyfunc.save_model(
            path,
            loader_module="consilia.export.mlflow_model",
            data_path=str(bundle),
            signature=ModelSignature(inputs=Schema([ColSpec("string", COLUMN)])),
            pip_requirements=[f"consilia[mlflow]=={__version__}"],
        )
