"""What everything after planning takes: a study's plan and files, and what they lead to, opened once.

Images and folds, with pandas and pydicom, are imported by what needs them: trials are shown without.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from consilia.config.records import TrialRecord
from consilia.config.study import StudyPlan, WeightsSource
from consilia.config.study_folder import StudyFolder
from consilia.errors import StudyError
from consilia.study.folder import hold_study
from consilia.study.mirror import Mirror
from consilia.study.remote import Place, Remote, open_place
from consilia.study.spaces import join_plan_spaces
from consilia.study.view import SILENT, StudyView
from consilia.study.weights import resolve_weights
from consilia.tune.space import JointSpace
from consilia.tune.stored import read_trials

if TYPE_CHECKING:
    from consilia.data.folds import FoldPlan
    from consilia.data.store.image_store import ImageStore
    from consilia.data.store.prepare import OpenWorkers
    from consilia.train.context import TrainingContext

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class OpenStudy:
    """A study: its plan, its folder, and the images, folds, weights and search space that belong to them.

    Making one reads nothing. Images, folds, weights and space are opened when they are first asked for, and then
    kept; trials are read anew each time, since a search may be writing them.
    """

    plan: StudyPlan
    folder: StudyFolder
    stores: Path  # folder of the image stores
    view: StudyView = SILENT  # told of everything that happens
    workers: "OpenWorkers | None" = None  # decode images that are not prepared yet; None: processes on this machine
    remote_studies: Remote | None = None  # all studies at their URI; None: they lie on a disk alone
    remote_stores: Remote | None = None  # the stores, likewise

    @classmethod
    def of(
        cls, plan: StudyPlan, *, studies: str | Path, stores: str | Path | None = None, view: StudyView = SILENT
    ) -> Self:
        """Return the study of a plan, whether its folder exists or not.

        Args:
            plan: The resolved study.
            studies: Folder of all studies, or its URI.
            stores: Folder of the image stores, or its URI; None: `stores`, beside the studies.
            view: Told of everything that happens.
        """
        place = open_place(studies)
        return cls.at(plan, StudyFolder(place.local / plan.name), place=place, stores=stores, view=view)

    @classmethod
    def at(
        cls, plan: StudyPlan, folder: StudyFolder, *, place: Place, stores: str | Path | None, view: StudyView
    ) -> Self:
        """Return the study in a folder; the others are as of `of`."""
        beside = place.sibling("stores") if stores is None else open_place(stores)
        return cls(
            plan=plan,
            folder=folder,
            stores=beside.local,
            view=view,
            remote_studies=place.remote,
            remote_stores=beside.remote,
        )

    @property
    def studies(self) -> Path:
        """Folder of all studies, this one among them."""
        return self.folder.root.parent

    @cached_property
    def mirror(self) -> Mirror | None:
        """The study at its URI; None: it lies on a disk alone."""
        remote = self.remote_studies
        return None if remote is None else Mirror(self.folder, remote.child(self.folder.root.name))

    @cached_property
    def space(self) -> JointSpace:
        """All search spaces of the plan as one."""
        return join_plan_spaces(self.plan)

    @cached_property
    def weights(self) -> WeightsSource:
        """Where the networks start from.

        Raises:
            PlanError: The folder or file does not exist.
        """
        return resolve_weights(self.plan)

    @cached_property
    def store(self) -> "ImageStore":
        """The prepared images; those that are not prepared yet are decoded now.

        Raises:
            DataError: The data cannot be used.
        """
        from consilia.data.store.prepare import prepare
        from consilia.study.shared_stores import SharedStores

        shared = None if self.remote_stores is None else SharedStores(self.remote_stores, self.note)
        return prepare(
            self.plan.data, root=self.stores, progress=self.view.preparing, workers=self.workers, shared=shared
        )

    @cached_property
    def folds(self) -> "FoldPlan":
        """The folds that every trial shares, checked for leaks.

        Raises:
            StudyError: There are none yet, or the data have changed since they were made.
            DataError: A patient stands on two sides.
        """
        from consilia.data.folds import check_no_leak, load_folds

        if not self.folder.folds.exists():
            raise StudyError(f"{self.folder.root} has no folds yet: `consilia search` must finish a trial first.")
        folds = load_folds(self.folder.folds)
        if folds.store_digest != self.store.digest:
            raise StudyError(
                f"{self.folder.folds} was made for other images than {self.plan.data.path} holds now: the data have "
                "changed since the study was started.\nRestore the data, or give the study another name (--set "
                "name=...)."
            )
        check_no_leak(folds, self.store)
        return folds

    def at_work(self) -> AbstractContextManager[None] | None:
        """Return what holds the study at its URI while this process writes it; None where it has no URI."""
        return None if self.mirror is None else self.mirror.at_work(self.note)

    def writing(self) -> AbstractContextManager[Any]:
        """Hold a study that lies at a URI while something is added to it."""
        return nullcontext() if self.mirror is None else hold_study(self.folder, work=self.at_work())

    def refresh(self, *, bundle: str = "") -> None:
        """Bring the folder to what lies at the study's URI; see `Mirror.refresh`."""
        if self.mirror is not None:
            self.mirror.refresh(bundle=bundle)

    def note(self, text: str) -> None:
        """Log what people should know, and tell the view."""
        logger.info("%s", text)
        self.view.noted(text)

    def records(self) -> dict[int, TrialRecord]:
        """Read every trial as it is stored now, by number.

        Raises:
            StudyError: A trial's file is damaged; names it.
        """
        return read_trials(self.folder)

    def training_context(self, device: str) -> "TrainingContext":
        """Return what all trials share, on a device of torch's or "auto"."""
        from consilia.train.context import TrainingContext

        return TrainingContext(
            store_folder=self.store.folder,
            folds=self.folds,
            training=self.plan.training,
            policy=self.plan.data.augmentation,
            architectures=self.space.architectures,
            metric=self.plan.search.metric,
            trials=self.folder.trials,
            seed=self.plan.seed,
            device=device,
            weights=self.weights,
            image_size=self.plan.image_size,
            rung=self.plan.search.rung(self.plan.training.epochs),
        )
