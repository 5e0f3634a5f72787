"""Where a study keeps everything it knows: names of files, and nothing else.

studies/<name>/
  study.yaml          the resolved plan and its digest
  weights.json        pretrained weights that networks start from, by model
  folds.parquet       image_id, patient_id, label, split, fold
  optuna.journal      Optuna's JournalStorage
  trials/<number>/    trial.json
    fold-<i>/         weights.safetensors, oof.parquet, history.parquet, result.json; checkpoint.pt while it runs
    refit/            the same without oof.parquet, of the network trained on all folds; where a recipe asked for it
  tensorboard/        curves by trial and fold: trial-<number>-<architecture>/fold-<i>/; may be deleted
  confirm/            folds.parquet: the same images divided otherwise; where search.confirm asked for it
    <number>/fold-<i>/  as of a trial, without weights.safetensors once all its folds are finished
  ensembles/<recipe>/ the bundle
  ledger.parquet      seconds by run, trial, fold and purpose
  search.json         which limit ended the search; missing while it is not over
  predictions/<recipe>.parquet  what that ensemble says of the images that it is measured on
  report.json  report.html  run.log
  ray/                Ray's own state; may be deleted
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FoldFolder:
    """Files of one fold of one trial, or of its refit; `result` is written last, so what has it is finished."""

    root: Path

    @property
    def weights(self) -> Path:
        """EMA weights of the last epoch, safetensors."""
        return self.root / "weights.safetensors"

    @property
    def oof(self) -> Path:
        """Parquet: image_id and one logit column a class, named logit_0 ... logit_{c-1}."""
        return self.root / "oof.parquet"

    @property
    def history(self) -> Path:
        """Parquet: one row an epoch."""
        return self.root / "history.parquet"

    @property
    def result(self) -> Path:
        """JSON: the FoldResult, or the RefitResult."""
        return self.root / "result.json"

    @property
    def checkpoint(self) -> Path:
        """State after the last complete epoch; deleted when the fold is finished."""
        return self.root / "checkpoint.pt"


@dataclass(frozen=True, slots=True)
class TrialFolder:
    """Files of one trial."""

    root: Path

    @property
    def record(self) -> Path:
        """JSON: the TrialRecord."""
        return self.root / "trial.json"

    @property
    def error(self) -> Path:
        """The traceback of a trial that failed in a way that nobody had foreseen."""
        return self.root / "error.txt"

    def fold(self, fold: int) -> FoldFolder:
        """Files of fold 0 ... k-1."""
        return FoldFolder(self.root / f"fold-{fold}")

    @property
    def refit(self) -> FoldFolder:
        """Files of the network that was trained on the images of all folds."""
        return FoldFolder(self.root / "refit")


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """Files of one study."""

    root: Path

    @property
    def plan(self) -> Path:
        """YAML: the resolved plan and its digest."""
        return self.root / "study.yaml"

    @property
    def folds(self) -> Path:
        """Parquet: the FoldPlan."""
        return self.root / "folds.parquet"

    @property
    def weights(self) -> Path:
        """JSON: where each model's pretrained weights came from, with the SHA-256 of its file."""
        return self.root / "weights.json"

    @property
    def journal(self) -> Path:
        """Optuna's journal; optuna-dashboard opens it."""
        return self.root / "optuna.journal"

    @property
    def trials(self) -> Path:
        """Folder of the trials."""
        return self.root / "trials"

    @property
    def confirmations(self) -> Path:
        """Folder of the trials that were trained once more with other folds and seeds."""
        return self.root / "confirm"

    @property
    def confirming_folds(self) -> Path:
        """Parquet: the FoldPlan of the confirmations."""
        return self.confirmations / "folds.parquet"

    def confirmation(self, number: int) -> TrialFolder:
        """Files of one trial's confirmation."""
        return TrialFolder(self.confirmations / str(number))

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files; consilia does not read them."""
        return self.root / "tensorboard"

    @property
    def report(self) -> Path:
        """JSON: leaderboard and metrics."""
        return self.root / "report.json"

    @property
    def page(self) -> Path:
        """HTML: the same for people, with figures and pictures."""
        return self.root / "report.html"

    def predictions(self, recipe: str) -> Path:
        """Parquet: what the ensemble of this recipe says of each image that it is measured on."""
        return self.root / "predictions" / f"{recipe}.parquet"

    @property
    def test_openings(self) -> Path:
        """JSON lines: when the locked test split was opened, and for which recipe."""
        return self.root / "test_openings.jsonl"

    @property
    def log(self) -> Path:
        """What consilia said while it ran."""
        return self.root / "run.log"

    @property
    def ledger(self) -> Path:
        """Parquet: seconds by run, trial, fold and purpose."""
        return self.root / "ledger.parquet"

    @property
    def search_end(self) -> Path:
        """JSON: which limit ended the search, and the limits it had; missing while it is not over."""
        return self.root / "search.json"

    @property
    def ray(self) -> Path:
        """Ray's own state; consilia does not read it."""
        return self.root / "ray"

    def trial(self, number: int) -> TrialFolder:
        """Files of one trial."""
        return TrialFolder(self.trials / str(number))

    def bundle(self, recipe: str) -> Path:
        """Folder of the ensemble built by this recipe."""
        return self.root / "ensembles" / recipe
