"""Private parts of Ray and Optuna that the search uses: each fails here by its name where a new version moved it."""

import importlib
import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import optuna
import pytest
import ray
from optuna.storages import InMemoryStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import TrialState
from packaging.requirements import Requirement
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from consilia.tune.optuna_internals import (
    journal_file,
    lock_file,
    report_value,
    reseed,
    set_state,
    set_user_attribute,
)

HOLD_PRIVATE_USES = {"tune/ray_internals.py", "tune/train_internals.py", "tune/optuna_internals.py"}
LOOKS_PRIVATE = re.compile(
    r"\bray[\w.]*\._|ray\.core\.|__ray_\w+__\.remote|from ray\.\S+ import _|optuna[\w.]*\._|from optuna\S* import _"
    r"|(?<!self)\._(storage|study_id|trial_id|rng|random_sampler|file_path)\b"
)


@pytest.mark.parametrize(
    "name",
    [
        "ray._private.state:available_resources_per_node",
        "ray._private.state:state._connect_and_get_accessor",
        "ray._raylet:GlobalStateAccessor.get_placement_group_table",
        "ray.core.generated.gcs_pb2:PlacementGroupTableData.FromString",
        "ray.core.generated.gcs_pb2:PlacementGroupTableData.REMOVED",
        "ray.train.backend:Backend.has_replica_groups",
        "ray.train.v2._internal.callbacks.datasets:DatasetsCallback",
        "ray.train.v2._internal.callbacks.placement_group_callback:PlacementGroupCleanerCallback",
        "ray.train.v2._internal.exceptions:WorkerGroupStartupTimeoutError",
        "ray.train.v2._internal.exceptions:WorkerHealthCheckFailedError",
        "ray.train.v2._internal.execution.controller:TrainController.get_result",
        "ray.train.v2._internal.execution.controller:TrainController.run",
        "ray.train.v2._internal.execution.scaling_policy.fixed:FixedScalingPolicy._maybe_send_resource_request",
        "ray.train.v2._internal.execution.scaling_policy.fixed:FixedScalingPolicy.after_controller_start",
        "ray.train.v2._internal.execution.scaling_policy.fixed:FixedScalingPolicy.before_controller_abort",
        "ray.train.v2._internal.execution.scaling_policy.fixed:FixedScalingPolicy.before_controller_shutdown",
        "ray.train.v2._internal.execution.worker_group.worker:RayTrainWorker.poll_status",
        "ray.train.v2._internal.execution.worker_group.worker_group:WorkerGroup.replace_replica_group",
        "ray.train.v2.api.callback:UserCallback.after_exception",
        "optuna.storages.journal._file:LOCK_FILE_SUFFIX",
        "optuna.storages:BaseStorage.get_trial_id_from_study_id_trial_number",
        "optuna.storages:BaseStorage.set_trial_state_values",
        "optuna.storages:BaseStorage.set_trial_user_attr",
    ],
)
def test_a_private_part_is_still_there(name: str):
    module, _, attributes = name.partition(":")
    found = importlib.import_module(module)
    for attribute in attributes.split("."):
        found = getattr(found, attribute)


@pytest.mark.parametrize(
    "name",
    [
        "creator_actor_dead",
        "creator_actor_id",
        "creator_job_id",
        "is_detached",
        "placement_group_id",
        "state",
    ],
)
def test_ray_still_says_of_a_placement_group_its(name: str):
    assert name in PlacementGroupTableData.DESCRIPTOR.fields_by_name


def test_ray_actors_still_have_ray_call():
    actor = ray.remote(type("Anything", (), {}))
    assert callable(actor.__ray_metadata__.modified_class.__ray_call__)


def test_ray_train_still_starts_a_groups_controller_in_a_method_of_its_own_and_with_what_we_change():
    call = re.search(
        r"self\._initialize_and_run_controller\((.*?)\n            \)",
        inspect.getsource(DataParallelTrainer.fit),
        re.DOTALL,
    )
    assert {"callbacks", "scaling_policy"} <= set(re.findall(r"(\w+)=", call[1]))
    parameters = inspect.signature(DataParallelTrainer._initialize_and_run_controller).parameters.values()
    assert [each.kind for each in parameters][1:] == [inspect.Parameter.VAR_KEYWORD]


@pytest.mark.parametrize("argument", ["_node_ip_address", "_system_config"])
def test_ray_init_still_takes_private_argument(argument: str):
    assert f'kwargs.pop("{argument}"' in inspect.getsource(ray.init)


def test_optuna_samplers_still_have_two_generators_that_can_be_seeded():
    drawn = []
    for n_before in (0, 3):
        sampler = optuna.samplers.TPESampler()
        study = optuna.create_study(sampler=sampler, storage=InMemoryStorage())
        for _ in range(n_before):
            study.ask().suggest_float("x", 0, 1)
        reseed(sampler, [1, 2])
        drawn.append(study.ask().suggest_float("x", 0, 1))
    assert drawn[0] == drawn[1]


def test_optuna_storages_still_take_states_and_attributes_by_number():
    study = optuna.create_study(storage=InMemoryStorage())
    number = study.ask().number
    set_state(study, number, TrialState.WAITING)
    set_user_attribute(study, number, "reason", "paused")
    report_value(study, number, step=1, value=0.5)
    (trial,) = study.trials
    assert (trial.state, trial.user_attrs) == (TrialState.WAITING, {"reason": "paused"})
    assert trial.intermediate_values == {1: 0.5}


def test_optuna_gives_a_pruned_trial_its_last_intermediate_value():
    study = optuna.create_study(storage=InMemoryStorage())
    number = study.ask().number
    for step, value in ((1, 0.5), (2, 0.25)):
        report_value(study, number, step=step, value=value)
    study.tell(number, state=TrialState.PRUNED)
    assert study.trials[0].value == 0.25


def test_optuna_journals_still_know_their_file_and_lock_it_by_a_file_beside_it(tmp_path: Path):
    journal = tmp_path / "optuna.journal"
    assert journal_file(JournalFileBackend(str(journal))) == str(journal)
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    assert lock_file(journal).is_symlink()
    lock.release()
    assert not lock_file(journal).is_symlink()


def test_private_parts_are_used_in_three_modules_only(root: Path):
    package = root / "platform" / "consilia"
    found = {
        f"{path.relative_to(package)}:{number}: {line.strip()}"
        for path in package.rglob("*.py")
        if path.relative_to(package).as_posix() not in HOLD_PRIVATE_USES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if LOOKS_PRIVATE.search(line)
    }
    assert not found


@pytest.mark.parametrize("name", ["ray", "optuna"])
def test_a_minor_version_that_nobody_has_tried_is_not_installed(root: Path, name: str):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (bounds,) = [each.specifier for each in map(Requirement, project["dependencies"]) if each.name == name]
    major, minor, *_ = version(name).split(".")
    assert bounds.contains(version(name))
    assert not bounds.contains(f"{major}.{int(minor) + 1}.0")
