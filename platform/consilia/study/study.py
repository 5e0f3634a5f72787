"""The study as people use it from Python: `consilia.search` and `consilia.open_study` return one.

torch, timm, scikit-learn and matplotlib are imported by what needs them, so that a study opens in a second.
"""

from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilia.config.catalog import is_file_reference, load
from consilia.config.frozen import near_match
from consilia.config.recipe import EnsembleRecipe
from consilia.config.study import StudyPlan
from consilia.errors import UserError
from consilia.report.trials import TrialBoard
from consilia.study.folder import find_study
from consilia.study.mirror import find_remote_study
from consilia.study.opened import OpenStudy
from consilia.study.plan import change_plan, read_plan
from consilia.study.remote import open_place
from consilia.study.trials import TrialReader, history_frame, trials_frame
from consilia.study.view import Steps, StudyView, default_view, no_steps

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from consilia.predict.predictor import EnsemblePredictor
    from consilia.report.figures import Shown
    from consilia.study.combine import StudyResult
    from consilia.study.suspects import SuspectFiles

Recipe = str | Path | EnsembleRecipe
"""A recipe: the name of a shipped one, a YAML file, or the recipe itself."""


def search(
    study: str | Path | StudyPlan,
    /,
    *,
    studies: str | Path = "studies",
    stores: str | Path | None = None,
    retry_failed: bool = False,
    view: StudyView | None = None,
    **settings: Any,
) -> "Study":
    """Search, cross-validate, combine and evaluate; started again, go on where the last call stopped.

    Nothing is printed: what happens is logged under "consilia" and written to the study's run.log. A notebook shows a
    progress bar.

        study = consilia.search("examples/phantoms.yaml", **{"search.trials": 5, "cluster.max_slots": 2})

    Args:
        study: A study file, or a plan that was read before.
        studies: Folder of all studies; this one's is `<studies>/<name>`. Or a URI such as "s3://bucket/studies": the
            study is then worked on in a folder of this machine, and any other machine can go on with it.
        stores: Folder of the prepared images, or a URI; None: `stores`, beside the studies.
        retry_failed: Try the configurations of failed trials again, each under a new number.
        view: Told of everything that happens, in place of the progress bar.
        **settings: Override keys of the study; dotted keys are passed as above. Relative paths start from the working
            directory.

    Returns:
        The finished study.

    Raises:
        PlanError: The study file or a setting is wrong; names the key.
        DataError: The images, labels or patients cannot be used.
        StudyError: The folder belongs to another plan, another process works in it, or the disk is too full.
        InterruptedStudyError: Ctrl-C; what was finished is stored, and the same call goes on there.
        RunError: No trial finished, too many failed in a row, the cluster cannot be used, or the disk is full.
    """
    from consilia.study.run import run_study

    if isinstance(study, StudyPlan):
        plan = change_plan(study, settings) if settings else study
    else:
        plan = read_plan(study, settings=settings, networks=False)
    opened = Study.of(plan, studies=studies, stores=stores, view=view or default_view(plan))
    run_study(opened, retry_failed=retry_failed)
    return opened


def open_study(
    study: str | Path,
    *,
    studies: str | Path = "studies",
    stores: str | Path | None = None,
    view: StudyView | None = None,
) -> "Study":
    """Open a stored study: finished, interrupted, or with a search at work in it.

    Args:
        study: Its folder, its name, or the study file that it was started with.
        studies: Folder of all studies, where a name is looked up, or a URI.
        stores: Folder of the prepared images, or a URI; None: `stores`, beside the studies. Images that are not there
            are prepared again when they are first needed.
        view: Told of what is done with the study; None: a bar in a notebook, and nothing in a script.

    Raises:
        StudyError: There is no such study; those that exist are named.
    """
    place = open_place(studies)
    if place.remote is not None:
        find_remote_study(str(study), place.local, place.remote)
    plan, folder = find_study(str(study), place.local)
    if place.remote is None:
        place = open_place(folder.root.parent)
    return Study.at(plan, folder, place=place, stores=stores, view=view or default_view(plan))


class Study(OpenStudy):
    """A study: its trials as tables, and its ensembles, built, measured and drawn.

    Made by `consilia.search` and `consilia.open_study`. Frozen; tables are read anew with each call, so a study that a
    search is still writing can be watched.

    Attributes:
        plan: Everything that decides the result, with every name replaced by its content.
        folder: Names of the study's files.
        stores: Folder of the prepared images.
        store: The prepared images; opened when first used, which decodes them if need be.
        folds: Which image is in which fold, and which are in the test split.
    """

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.plan.name

    def __repr__(self) -> str:
        return f"Study({self.name!r}, {str(self.folder.root)!r})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: how far the study is, its ensembles, and the best trials."""
        from consilia.predict.display import show_facts

        board, table = self.board(), self.trials()
        shown = ["trial", "state", "objective", "architecture", "lr", "seconds", "reason"]
        facts = {
            "data": self.plan.data.title or self.plan.data.name,
            "classes": ", ".join(self.plan.data.classes or ()),
            "trials": board.count("finished", "stopped", "failed", "paused", "running", "interrupted") or "none yet",
            "search": "running" if board.is_held else "not running",
            "folds": f"{self.plan.folds.k}, seed {self.plan.seed}",
            "ensembles": ", ".join(self.ensembles()),
            "folder": str(self.folder.root),
        }
        return show_facts(f"Study {self.name}, by {board.metric}", facts, table=table[shown], n_rows=len(table))

    def trials(self) -> "pd.DataFrame":
        """Return one row a trial: fully evaluated ones first, the best at the top, then the others by number.

        Columns: trial; state ("running", "interrupted", "paused", "finished", "stopped" or "failed"); metric, the name
        of the study's; objective, its mean over the folds, missing while there is none; fold_0 ... fold_<k-1>, the
        metric on each finished fold; a column for each hyperparameter; seconds of training; reason of a pause, a stop
        or a failure.

        Raises:
            StudyError: A trial's file is damaged; names it.
        """
        return trials_frame(self.board())

    def board(self) -> TrialBoard:
        """Return what `trials` shows as frozen records, with how far each unfinished trial has come.

        Raises:
            StudyError: A trial's file is damaged; names it.
        """
        self.refresh()
        return self._reader()

    def history(self, trial: int) -> "pd.DataFrame":
        """Return one row an epoch and fold of a trial, in order.

        Columns: fold, from 0; epoch, from 1; train_loss; lr, the learning rate of the epoch's end; seconds; images seen
        in training; and every metric on the validation fold, such as log_loss and macro_auc, NaN where an epoch was not
        scored.

        Args:
            trial: Number of the trial.

        Raises:
            StudyError: There is no such trial, or one of its files is damaged; names it.
        """
        self.refresh()
        return history_frame(self.plan, self.folder, trial)

    def importance(self) -> "pd.Series[float]":
        """Return each searched hyperparameter's share of what decided the score, the largest first (PED-ANOVA).

        Empty while fewer than 12 trials have finished, which say too little.

        Raises:
            StudyError: A trial's file is damaged; names it.
        """
        import pandas as pd

        from consilia.tune.importance import importances

        self.refresh()
        found = importances(self.records().values(), self.space, metric=self.plan.search.metric)
        return pd.Series(found or {}, name="importance", dtype=float)

    def ensembles(self) -> list[str]:
        """Return the names of the recipes whose ensembles have been built, sorted."""
        return sorted(path.parent.name for path in self.folder.root.glob("ensembles/*/ensemble.json"))

    def fit(
        self, recipe: Recipe | None = None, *, refit: bool = False, test: bool = False, device: str = "auto"
    ) -> "EnsemblePredictor":
        """Build the ensemble of a recipe from the trials' stored predictions, and load it.

        That of the study's own recipe is evaluated on the locked test split, whose opening is written down; others are
        where `test` asks for it. One that has been built before is loaded as it is. Nothing is trained, unless `refit`
        asks for it.

        Args:
            recipe: Name of a shipped recipe, a file, or a recipe; None: the study's own.
            refit: Train what a recipe with `build: fast` ships, where it is missing.
            test: Open the locked test split for this recipe, whichever it is.
            device: A torch device such as "cpu" or "cuda:0"; "auto" takes the best one.

        Raises:
            PlanError: There is no such recipe, or it is wrong.
            StudyError: The study has no folds yet, its data have changed, or refits are missing.
            UserError: Refits are asked for, but the recipe ships none.
            RunError: No trial has finished, or a refit failed.
        """
        from consilia.predict.loading import load_predictor

        return load_predictor(self.build(recipe, refit=refit, test=test).bundle, device=device, precision="auto")

    def build(
        self,
        recipe: Recipe | None = None,
        *,
        refit: bool = False,
        test: bool = False,
        address: str | None = None,
        view: StudyView | None = None,
    ) -> "StudyResult":
        """Build as `fit` does, and return what was built without loading it.

        Args:
            recipe: As of `fit`.
            refit: As of `fit`.
            test: As of `fit`.
            address: Of a running Ray cluster to train refits on; None: where the study says.
            view: Told of the refits' progress; None: a bar in a notebook, and nothing in a script.

        Raises:
            ConsiliaError: As of `fit`.
        """
        from consilia.study.run import build_recipe

        chosen = self.plan.ensemble if recipe is None else _read_recipe(recipe)
        study = self if view is None else replace(self, view=view)
        if address is not None:
            cluster = self.plan.cluster.model_copy(update={"address": address})
            study = replace(study, plan=self.plan.model_copy(update={"cluster": cluster}))
        return build_recipe(study, chosen, refit=refit, test=test)

    def result(self, recipe: Recipe | None = None) -> "StudyResult":
        """Return what the study has ended with: an ensemble's document, the best trials, and where the time went.

        Args:
            recipe: Of the ensemble; None: the study's own.

        Raises:
            StudyError: That ensemble is not built yet.
            BundleError: Its bundle is damaged.
        """
        from consilia.study.combine import read_result

        return read_result(self, self._name_of(recipe))

    def predictor(self, recipe: Recipe | None = None, *, device: str = "auto") -> "EnsemblePredictor":
        """Load an ensemble that has been built.

        Args:
            recipe: Of the ensemble; None: the study's own.
            device: As of `fit`.

        Raises:
            StudyError: That ensemble is not built yet.
            BundleError: Its bundle is damaged.
        """
        from consilia.predict.loading import load_predictor
        from consilia.study.combine import find_bundle

        return load_predictor(find_bundle(self, self._name_of(recipe)), device=device, precision="auto")

    def evaluate(self, recipe: Recipe | None = None) -> "pd.DataFrame":
        """Return what an ensemble is worth, in one row a split, unit and metric, as it was measured when it was built.

        Columns: split ("test": the locked test split; "cross_fitted": each image by an ensemble that did not see its
        fold); unit ("image" or "patient", whose images count as one); metric; value of the calibrated ensemble; low and
        high, its 95 % interval over patients; uncalibrated, the value before calibration, of metrics that calibration
        changes. Undefined values are NaN. `result().document.evaluations` has the confusion matrix and notes besides.

        Args:
            recipe: Of the ensemble; None: the study's own.

        Raises:
            StudyError: That ensemble is not built yet.
            BundleError: Its bundle is damaged.
        """
        from consilia.study.combine import evaluation_frame

        return evaluation_frame(self.result(recipe).document)

    def figure(self, kind: str, recipe: Recipe | None = None, *, device: str = "auto") -> "Figure":
        """Draw an ensemble on the locked test split, whose opening is written down.

        Args:
            kind: "reliability", "roc", "precision_recall", "risk_coverage" or "confusion"; of several members also
                "error_correlation" and "loss_by_size".
            recipe: Of the ensemble; None: the study's own.
            device: As of `fit`.

        Raises:
            UserError: There is no such figure, or not of this ensemble; names those that there are.
            StudyError: That ensemble is not built yet.
            DataError: The study has no test split.
        """
        from consilia.report.figures import FIGURES, kinds_of

        if kind not in FIGURES:
            raise UserError(
                f"A figure must be one of {', '.join(FIGURES)}, but got {kind!r}.{near_match(kind, list(FIGURES))}"
            )
        shown = self._shown_on_test(self._name_of(recipe), device)
        if kind not in kinds_of(shown):
            raise UserError(
                f"{kind} compares members that are averaged, and this ensemble has none to compare. Draw one of "
                f"{', '.join(kinds_of(shown))}."
            )
        return FIGURES[kind](shown).figure

    def report(self, out: str | Path | None = None, *, pictures: bool = True, refresh: int | None = None) -> Path:
        """Write the report as one HTML page that needs no network: report.html, as every search ends with it.

        It says what the study holds now, so it can be written while a search is at work.

        Args:
            out: The page; None: report.html in the study's folder.
            pictures: Show the worst errors and the least certain images with their heat maps, files and patients.
            refresh: Seconds after which a browser shall load the page again; None: never.

        Returns:
            The page.

        Raises:
            StudyError: A file of the study is damaged; names it.
            BundleError: The ensemble is damaged.
        """
        from consilia.study.page import write_study_page

        self.refresh(bundle=self.plan.ensemble.name)
        is_ours = out is None and not self.board().is_held
        with self.writing() if is_ours else nullcontext():
            return write_study_page(self, pictures=pictures, out=None if out is None else Path(out), refresh=refresh)

    def suspects(self, out: str | Path | None = None, *, steps: Steps = no_steps) -> "SuspectFiles":
        """Write the images whose label the study's own trials doubt: suspects.csv, and a sheet of pictures.

        Nothing is dropped or relabelled: a doubted label may be a rare finding that is right.

        Args:
            out: Folder for both files; None: the study's own.
            steps: Told what is being done, how many items of it are done, and of how many.

        Raises:
            StudyError: The study has no folds yet, or its data have changed.
            RunError: No trial has finished.
        """
        from consilia.study.suspects import write_suspects

        self.refresh()
        with self.writing() if out is None else nullcontext():
            return write_suspects(self, None if out is None else Path(out), steps=steps)

    @cached_property
    def _reader(self) -> TrialReader:
        return TrialReader(self.plan, self.folder, elsewhere=None if self.mirror is None else self.mirror.is_held)

    @cached_property
    def _shown(self) -> "dict[str, Shown]":
        """The test split as each ensemble sees it, by the ensemble's identity; predicted once."""
        return {}

    def _shown_on_test(self, recipe: str, device: str) -> "Shown":
        from consilia.predict.loading import load_predictor
        from consilia.study.combine import find_bundle
        from consilia.study.measure import show_on_test

        predictor = load_predictor(find_bundle(self, recipe), device=device)  # in float32, as it was evaluated
        provenance = predictor.document.provenance
        identity = f"{predictor.document.name} {provenance.created}"
        if identity not in self._shown:
            with self.writing():  # the opening is written down
                self._shown[identity] = show_on_test(self, predictor)
        return self._shown[identity]

    def _name_of(self, recipe: Recipe | None) -> str:
        if recipe is None:
            return self.plan.ensemble.name
        if isinstance(recipe, str) and not is_file_reference(recipe):
            return recipe  # of an ensemble in the study, whether such a recipe is shipped or not
        return _read_recipe(recipe).name


def _read_recipe(recipe: Recipe) -> EnsembleRecipe:
    if isinstance(recipe, EnsembleRecipe):
        return recipe
    return load("ensembles", str(recipe), EnsembleRecipe, base=Path.cwd())
