"""A mirrored study can be gone on with wherever its driver died, and nothing of it is done twice or mixed up."""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from consilia.config.record_files import write_trial
from consilia.config.records import TrialRecord
from consilia.errors import RunError, StudyError
from consilia.files import write_text
from consilia.study.folder import hold_study
from mirrored_search import BASE, TRIALS, Driver, K
from stored_objects import DriverDiedError, Objects, ObjectStore

STUDY = f"{BASE}/played"
ENDED = ("finished", "stopped")


def died_at(root: Path, change: int) -> tuple[Objects, Driver, bool]:
    """Return the store after a driver died before its change of this number, the driver, and whether it did die."""
    objects = Objects()
    count = 0

    def before(name: str) -> None:
        nonlocal count
        driver.stand_still()
        if count >= change:
            raise DriverDiedError(name)
        count += 1
        objects.now += 1

    driver = Driver(root / "first", ObjectStore(objects, before))
    try:
        driver.work(seed=change)
    except DriverDiedError:
        return objects, driver, True
    return objects, driver, False


def go_on(root: Path, objects: Objects, change: int) -> Driver:
    """Let a driver on another machine finish the study."""

    def before(name: str) -> None:
        driver.stand_still()
        objects.now += 1

    driver = Driver(root / "second", ObjectStore(objects, before))
    driver.work(seed=change + 1)
    return driver


def records_of(files: dict[str, bytes]) -> dict[int, dict]:
    names = [name for name in files if name.endswith("/trial.json")]
    return {int(name.split("/")[1]): json.loads(files[name]) for name in names}


def check_what_lies_there(files: dict[str, bytes], root: Path) -> None:
    """Whatever the last change was, the files are a state that the folder itself could have been in."""
    records = records_of(files)
    check_journal(files, records, root)
    for number, record in records.items():
        if record["state"] == "finished":
            assert {f"trials/{number}/fold-{fold}/result.json" for fold in range(K)} <= files.keys()
    for name in files:
        if name.endswith("/result.json"):
            start, number = name.removesuffix("result.json"), int(name.split("/")[1])
            assert {f"{start}{each}.parquet" for each in ("oof", "history")} <= files.keys()
            is_open = number not in records or records[number]["state"] == "running"
            assert not is_open or f"{start}weights.safetensors" in files
    if "search.json" in files:
        assert {number for number, record in records.items() if record["state"] in ENDED} == set(range(TRIALS))


def check_journal(files: dict[str, bytes], records: dict[int, dict], root: Path) -> None:
    """The journal knows all that has files, and runs ahead of no trial.json."""
    journal = root / "journal-at-the-uri"
    journal.write_bytes(files.get("optuna.journal", b""))
    known = {}
    if journal.stat().st_size:
        study = optuna.load_study(study_name="played", storage=JournalStorage(JournalFileBackend(str(journal))))
        known = {trial.number: trial for trial in study.get_trials()}
    for number in {int(name.split("/")[1]) for name in files if name.startswith("trials/")}:
        assert known[number].params, f"trial {number} has files, and the journal does not know its configuration"
    for number, record in records.items():
        assert known[number].params["lr"] == record["hyperparameters"]["lr"]
    for number, trial in known.items():
        assert not trial.state.is_finished() or records[number]["state"] in ENDED, (
            f"the journal ends {number} too early"
        )


def result_of(record: dict) -> tuple[object, ...]:
    """Return what may not depend on where a driver died.

    A trial that was about to be stopped may be stopped a fold later: what was decided on a fold that is finished is not
    decided again.
    """
    if record["state"] == "stopped":
        return record["state"], record["hyperparameters"], record["folds"][0]
    return record["state"], record["hyperparameters"], record["objective"], record["folds"]


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Path]:
    """Where drivers have their disks: in memory where the system can, since each file that is written is synced."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[object, ...]]:
    driver = Driver(tmp_path_factory.mktemp("undisturbed"), ObjectStore(Objects()))
    driver.search()
    paths = driver.folder.trials.glob("*/trial.json")
    return {int(path.parent.name): result_of(json.loads(path.read_text())) for path in paths}


def check_death(root: Path, change: int, undisturbed: dict[int, tuple[object, ...]]) -> bool:
    objects, _, died = died_at(root, change)
    files = objects.below(STUDY)
    check_what_lies_there(files, root)
    finished = {tuple(name.split("/")[1:3]) for name in files if name.endswith("/result.json")}

    second = go_on(root, objects, change)
    done = objects.below(STUDY)
    check_what_lies_there(done, root)
    repeated = {(str(number), f"fold-{fold}") for number, fold, _ in second.computed} & finished
    assert not repeated, f"computed again, although they lay at the URI: {repeated}"
    assert {number: result_of(record) for number, record in records_of(done).items()} == undisturbed
    assert not [name for name in done if name.endswith("checkpoint.pt")]
    local = {
        path.relative_to(second.folder.root).as_posix() for path in second.folder.root.rglob("*") if path.is_file()
    }
    assert {name for name in local if not name.startswith(".")} == {name for name in done if "lease" not in name}
    return died


@pytest.mark.parametrize("start", range(3))
def test_a_driver_that_dies_between_any_two_uploads_leaves_a_study_that_another_machine_finishes(
    disks, undisturbed, start
):
    check_some(disks, undisturbed, range(start * 6, 10_000, 18))


@pytest.mark.slow("every upload in turn; the test above dies before every sixth one")
def test_it_may_die_before_every_upload(disks, undisturbed):
    n_deaths = check_some(disks, undisturbed, range(10_000))
    assert n_deaths > 90


def check_some(root: Path, undisturbed: dict[int, tuple[object, ...]], numbers: range) -> int:
    for number in numbers:
        if not check_death(root / str(number), number, undisturbed):
            return number
    raise AssertionError("no driver came to its end")


def test_a_driver_that_is_started_again_on_its_machine_goes_on_from_what_it_had_not_pushed(disks, undisturbed):
    objects, first, _ = died_at(disks, 30)
    results = {path.parent for path in first.folder.trials.glob("*/fold-*/result.json")}
    pushed = [name for name in objects.below(STUDY) if name.endswith("/result.json")]
    assert len(results) > len(pushed), "nothing was lost at the URI, so that this test would show nothing"
    again = Driver.again(first, ObjectStore(objects))
    again.work(seed=0)
    assert not {(number, fold) for number, fold, _ in again.computed} & {
        (int(path.parent.name), int(path.name.removeprefix("fold-"))) for path in results
    }
    assert {number: result_of(record) for number, record in records_of(objects.below(STUDY)).items()} == undisturbed


def test_what_a_machine_had_not_pushed_gives_way_to_what_another_one_has_done_since(disks, undisturbed):
    objects, first, _ = died_at(disks, 30)
    go_on(disks, objects, 30)
    done = objects.below(STUDY)
    again = Driver.again(first, ObjectStore(objects))
    again.work(seed=0)
    assert again.computed == []
    trials = {name for name in done if name.startswith("trials/")}
    assert {name: objects.below(STUDY).get(name) for name in trials} == {name: done[name] for name in trials}


def test_a_search_goes_on_while_nothing_can_be_pushed_and_says_so_once(disks):
    notes, driver, failing = failing_driver(disks, "trials/")
    with hold_study(driver.folder, work=driver.mirror.at_work(notes.append)):
        write_text(driver.folder.plan, "name: played\n")
        driver.search()
        while not notes:
            time.sleep(0.01)
        time.sleep(0.1)
        failing.clear()
    assert len([note for note in notes if "cannot be pushed, and is tried again" in note]) == 1
    assert len(records_of(driver.objects.below(STUDY))) == TRIALS


def test_a_last_push_that_fails_is_an_error_that_says_where_everything_lies(disks):
    notes, driver, _ = failing_driver(disks, "trials/", every=1e9)

    def search() -> None:
        with hold_study(driver.folder, work=driver.mirror.at_work(notes.append)):
            write_text(driver.folder.plan, "name: played\n")
            driver.search()

    with pytest.raises(RunError, match=rf"could not be pushed.*\n.*{driver.folder.root}: the same command"):
        search()
    again = Driver.again(driver, ObjectStore(driver.objects))
    again.work(seed=0)
    assert again.computed == []
    assert len(records_of(driver.objects.below(STUDY))) == TRIALS


def failing_driver(root: Path, names: str, *, every: float = 0.01) -> tuple[list[str], Driver, list[str]]:
    """Return a driver that cannot write objects whose name holds one of a list, and that list."""
    failing = [names]

    def before(name: str) -> None:
        if any(each in name for each in failing):
            raise OSError("AWS Error NETWORK_CONNECTION during PutObject")

    objects = Objects()
    driver = Driver(root / "first", ObjectStore(objects, before), every=every)
    driver.objects = objects
    return [], driver, failing


def test_a_study_that_was_given_up_before_its_first_trial_leaves_nothing_but_a_lease_that_nobody_holds(disks):
    objects = Objects()
    driver = Driver(disks / "first", ObjectStore(objects))
    with hold_study(driver.folder, work=driver.mirror.at_work(print)):
        write_text(driver.folder.plan, "name: played\n")
        driver.mirror.push()
        assert "study.yaml" in objects.below(STUDY)
        shutil.rmtree(driver.folder.root)
    assert objects.below(STUDY).keys() == {"lease.json"}


def test_a_folder_that_goes_away_under_a_search_takes_nothing_with_it_at_the_uri(disks):
    objects = Objects()
    driver = Driver(disks / "first", ObjectStore(objects))

    def lose_the_folder() -> None:
        with hold_study(driver.folder, work=driver.mirror.at_work(print)):
            write_text(driver.folder.plan, "name: played\n")
            driver.search()
            driver.mirror.push()
            shutil.rmtree(driver.folder.root)

    with pytest.raises(RunError, match="is gone, and with it what was not pushed"):
        lose_the_folder()
    assert len(records_of(objects.below(STUDY))) == TRIALS


def test_other_files_at_the_uri_are_refused_and_left_alone(disks):
    objects = Objects()
    objects.contents[f"{STUDY}/thesis.txt"], objects.mtimes[f"{STUDY}/thesis.txt"] = b"mine", 0
    driver = Driver(disks / "first", ObjectStore(objects))
    with pytest.raises(StudyError, match=r"does not hold a study\.yaml"):
        driver.work(seed=0)
    assert objects.below(STUDY) == {"thesis.txt": b"mine"}


def test_readers_pull_no_weights_and_no_networks_but_those_of_the_bundle_they_want(disks):
    objects = Objects()
    driver = Driver(disks / "first", ObjectStore(objects))
    driver.work(seed=0)
    with hold_study(driver.folder, work=driver.mirror.at_work(print)):
        for recipe in ("one", "two"):
            for name in ("ensemble.json", "members/0.safetensors"):
                write_text(driver.folder.bundle(recipe) / name, recipe)
    reader = Driver(disks / "reader", ObjectStore(objects))
    reader.mirror.refresh(bundle="one")
    pulled = {path.relative_to(reader.folder.root).as_posix() for path in reader.folder.root.rglob("[!.]*")}
    assert {"ensembles/one/members/0.safetensors", "ensembles/two/ensemble.json", "trials/0/trial.json"} <= pulled
    assert not [name for name in pulled if "weights" in name or name.startswith("ensembles/two/members/")]


@pytest.mark.parametrize("stop", range(4))
def test_a_fold_whose_weights_are_gone_lies_at_the_uri_only_once_its_trial_has_ended_there(disks, stop):
    for death in range(stop, 10):
        files = stopped_in_a_push(disks / str(death), before_stop=stop, before_death=death)
        state = json.loads(files["trials/0/trial.json"])["state"]
        has_result, has_weights = (
            f"trials/0/fold-0/{name}" in files for name in ("result.json", "weights.safetensors")
        )
        assert has_weights or state == "stopped" or not has_result, f"death before change {death}"
        assert {"trials/0/fold-0/oof.parquet", "trials/0/fold-0/history.parquet"} <= files.keys() or not has_result
    assert (state, has_result, has_weights) == ("stopped", True, False)  # the last one lived on to the end of the push


def stopped_in_a_push(root: Path, *, before_stop: int, before_death: int) -> dict[str, bytes]:
    """Return what lies at the URI after a trial was stopped before some change of a push, and its driver died later.

    The push brings a trial's first fold. That the trial is stopped deletes the fold's weights.
    """
    objects, changes = Objects(), []
    is_watched = False

    def before(name: str) -> None:
        if not is_watched:
            return
        if len(changes) == before_stop:
            write_trial(trial.record, replace(record, state="stopped", reason="worse"))
            fold.weights.unlink(missing_ok=True)
        if len(changes) == before_death:
            raise DriverDiedError(name)
        changes.append(name)

    driver = Driver(root, ObjectStore(objects, before))
    trial = driver.folder.trial(0)
    fold = trial.fold(0)
    with suppress(DriverDiedError), hold_study(driver.folder, work=driver.mirror.at_work(print)):
        write_text(driver.folder.plan, "name: played\n")
        task = driver.suggester().ask()
        record = TrialRecord(number=task.number, state="running", hyperparameters=task.hyperparameters)
        write_trial(trial.record, record)
        driver.mirror.push()
        for path in (fold.history, fold.weights, fold.oof, fold.result):
            write_text(path, "{}")
        is_watched = True
        driver.mirror.push()
        driver.mirror.push()
    return objects.below(STUDY)
