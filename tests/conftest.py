"""What all tests share: the tiers, one tiny study that is trained once, and one Ray."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from consilia.config.records import EpochReport, RefitProgress, TrialRecord, TrialTask
from consilia.config.study import StudyPlan
from consilia.config.study_folder import StudyFolder
from processes import wait_until_gone, wait_until_idle

pytest_plugins = ["finished_study", "toy_training"]

ROOT = Path(__file__).parent.parent

for name in ("COLUMNS", "LINES"):  # a process of pytest-xdist has them, and tables would be cut at its width
    os.environ.pop(name, None)

# No test may depend on the wall clock being fast: these two are all that Hypothesis measures by it.
FAST = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=25)
settings.register_profile("fast", FAST)
settings.register_profile("thorough", FAST, max_examples=200)  # of `make test-all`
settings.load_profile("fast")

STUDY = """
name: tiny
data: {{card: phantoms, path: "{phantoms}", size: 32}}
folds: {{k: 2}}
spaces: [tiny]
search: {{trials: 2}}
training: {{epochs: 1, batch_size: 16}}
ensemble: best_single
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a slow test that does not say why, and put those on the session's Ray last: it runs beside no other."""
    without_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(without_gpu)
        for mark in item.iter_markers("slow"):
            if len(mark.args) != 1 or not isinstance(mark.args[0], str):
                raise pytest.UsageError(f'{item.nodeid} must say why `make test` leaves it out: slow("...").')
    items.sort(key=lambda item: "ray_on_loopback" in item.fixturenames)


class SilentView:
    """A StudyView that shows nothing and remembers what it heard."""

    def __init__(self) -> None:
        self.epochs: list[EpochReport] = []
        self.ended: list[TrialRecord] = []
        self.notes: list[str] = []
        self.refits: list[RefitProgress] = []
        self.n_prepared = 0

    def preparing(self, done: int, total: int) -> None:
        self.n_prepared = done

    def noted(self, text: str) -> None:
        self.notes.append(text)

    def connected(self, *, dashboard: str, token_file: str) -> None:
        raise AssertionError("a study of one configuration needs no Ray")

    def search_started(self, *, n_trials: int, n_slots: int, records: tuple[TrialRecord, ...]) -> None:
        self.stored = records

    def trial_started(self, task: TrialTask) -> None:
        pass

    def epoch_ended(self, report: EpochReport) -> None:
        self.epochs.append(report)

    def trial_ended(self, record: TrialRecord) -> None:
        self.ended.append(record)

    def refitting(self, progress: RefitProgress) -> None:
        self.refits.append(progress)


@dataclass(frozen=True)
class TrainedStudy:
    """A finished study of one configuration, and all that it was made from."""

    file: Path  # the study file
    plan: StudyPlan
    folder: StudyFolder
    studies: Path
    stores: Path
    bundle: Path
    view: SilentView


@pytest.fixture(scope="session")
def short_tmp() -> Iterator[Path]:
    """A folder with a short name: Ray's sockets lie in it, and a socket's path may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="cr-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[Path]:
    """Where the session's Ray lies, apart from those that tests start themselves."""
    with tempfile.TemporaryDirectory(prefix="cr-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def ray_on_loopback(request: pytest.FixtureRequest, ray_folder: Path) -> Iterator[None]:
    """The one Ray of all tests that need a Ray and kill no node or driver; a parameter gives it other resources."""
    from consilia.cluster.connection import connect
    from consilia.config.study import ClusterProfile

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(ray_folder))
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # workers import all that we do
        if resources := getattr(request, "param", None):
            patch.setenv("RAY_OVERRIDE_RESOURCES", json.dumps(resources))
        with connect(ClusterProfile(gpus_per_slot=0)):
            yield
    assert wait_until_gone(ray_folder) == []


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test on a Ray: no actor, no placement group and no process of consilia, or no Ray at all."""
    shared, own = ("ray_on_loopback" in request.fixturenames), ("short_tmp" in request.fixturenames)
    folder = request.getfixturevalue("ray_folder" if shared else "short_tmp") if shared or own else None
    yield
    if shared:
        assert wait_until_idle(folder) == (set(), [], {})
    elif own:
        assert wait_until_gone(folder) == []


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def silent_view() -> SilentView:
    return SilentView()


@pytest.fixture(scope="session")
def silent_view_class() -> type[SilentView]:
    """For fixtures that outlive a test."""
    return SilentView


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms of 30 patients at 32 px; not to be changed."""
    from consilia.data.phantoms import write_phantoms

    return write_phantoms(tmp_path_factory.mktemp("data") / "phantoms", patients=30, size=32)


@pytest.fixture
def phantoms_copy(phantoms: Path, tmp_path: Path) -> Path:
    """The phantoms in a folder that a test may change."""
    return Path(shutil.copytree(phantoms, tmp_path / "phantoms"))


@pytest.fixture(scope="session")
def study_file(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of tiny networks on the phantoms: two folds of one epoch."""
    file = tmp_path_factory.mktemp("files") / "tiny.yaml"
    file.write_text(STUDY.format(phantoms=phantoms), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained(study_file: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> TrainedStudy:
    """A study trained to its bundle, without Ray; not to be changed."""
    from consilia import search
    from consilia.study.plan import read_single_plan

    root = tmp_path_factory.mktemp("trained")
    plan = read_single_plan(study_file, architecture="test_resnet")
    view = SilentView()
    result = search(plan, studies=root / "studies", stores=root / "stores", view=view).result()
    folder = StudyFolder(root / "studies" / plan.name)
    return TrainedStudy(
        file=study_file,
        plan=plan,
        folder=folder,
        studies=root / "studies",
        stores=root / "stores",
        bundle=result.bundle,
        view=view,
    )


@pytest.fixture
def trained_copy(trained: TrainedStudy, tmp_path: Path) -> TrainedStudy:
    """The trained study in a folder that a test may change; the image stores stay where they are."""
    studies = Path(shutil.copytree(trained.studies, tmp_path / "studies"))
    folder = StudyFolder(studies / trained.plan.name)
    return TrainedStudy(
        file=trained.file,
        plan=trained.plan,
        folder=folder,
        studies=studies,
        stores=trained.stores,
        bundle=folder.bundle(trained.plan.ensemble.name),
        view=trained.view,
    )


@pytest.fixture
def trained_bundle(trained: TrainedStudy, tmp_path: Path) -> Path:
    """A copy of the trained bundle that a test may change."""
    return Path(shutil.copytree(trained.bundle, tmp_path / "bundle"))


@pytest.fixture
def real_data() -> Path:
    """Folder of the real data sets, where there is one."""
    place = os.environ.get("CONSILIA_REAL_DATA")
    if not place:
        pytest.skip("CONSILIA_REAL_DATA names no folder of real images")
    return Path(place)
