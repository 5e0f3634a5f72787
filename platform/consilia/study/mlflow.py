"""A study in MLflow, for those who compare all their runs there; `export.mlflow_runs` writes it. No torch is needed."""

import os
from typing import TYPE_CHECKING

from consilia.bundle.reading import read_bundle
from consilia.errors import UserError
from consilia.export.extras import check_extra
from consilia.study.opened import OpenStudy

if TYPE_CHECKING:
    from consilia.export.mlflow_runs import LoggedStudy


_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # what is logged where is nobody else's business
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # by default it takes minutes to say that a server is not there
}


def export_mlflow(study: OpenStudy, *, tracking_uri: str | None = None, experiment: str = "consilia") -> "LoggedStudy":
    """Log a study to MLflow: a run of it, a run below it for each trial that has ended, and its ensemble as a model.

    A second export adds what the study has by then and MLflow does not, and changes nothing else. MLflow's own
    telemetry stays off unless MLFLOW_DISABLE_TELEMETRY says otherwise.

    Args:
        study: The study.
        tracking_uri: Of MLflow, such as "http://127.0.0.1:5000" or "sqlite:///mlflow.db"; None: as MLflow is set up.
        experiment: Its name; made if need be.

    Raises:
        StudyError: A file of the study is damaged; names it.
        BundleError: Its bundle is damaged.
        UserError: MLflow cannot use the URI, or the extra is not installed.
    """
    check_extra("mlflow")
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)  # read at the import
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    from consilia.export.mlflow_runs import StudyToLog, log_study

    recipe = study.plan.ensemble.name
    study.refresh(bundle=recipe)
    bundle = study.folder.bundle(recipe)
    stored = StudyToLog(
        plan=study.plan,
        folder=study.folder,
        records=study.records(),
        document=read_bundle(bundle) if bundle.is_dir() else None,
    )
    try:
        client = MlflowClient(tracking_uri=tracking_uri)
        found = client.get_experiment_by_name(experiment)
        number = client.create_experiment(experiment) if found is None else found.experiment_id
        return log_study(client, number, stored)
    except MlflowException as error:
        where, reason = tracking_uri or "its default URI", str(error.message).splitlines()[0]
        raise UserError(f"MLflow cannot take the study at {where}: {reason}") from error
