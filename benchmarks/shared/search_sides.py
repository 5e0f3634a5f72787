"""The rivals of consilia's search: a plain loop around Optuna, and Ray Tune with Ray Train as Ray documents them.

Both read a study file and search its space with consilia's training code, images, folds and sampler settings; every
trial runs all its folds. What a trial leaves behind has the layout of a study's folder. search_efficiency.py runs them:

    python benchmarks/shared/search_sides.py optuna|nested STUDY.yaml --folder DIR --stores DIR [--workers N]
        [--threads N]
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from consilia.config.record_files import write_trial
from consilia.config.records import EpochReport, FoldResult, TrialRecord, TrialTask
from consilia.config.space import Hyperparameters
from consilia.config.study import ClusterProfile, StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.data.folds import make_folds
from consilia.data.store.prepare import prepare
from consilia.study.plan import read_plan
from consilia.train.context import TrainingContext
from consilia.train.cross_validation import cross_validate
from consilia.train.device import set_threads
from consilia.tune.space import JointSpace, join_spaces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=("optuna", "nested"))
    parser.add_argument("study", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--stores", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1, help="trials at a time, of the nested side")
    parser.add_argument("--threads", type=int, default=1, help="of each trial, for torch")
    arguments = parser.parse_args()
    plan = read_plan(arguments.study)
    context = make_context(plan, StudyFolder(arguments.folder.absolute()), arguments.stores.absolute())
    joint = join_spaces(plan.spaces, weights="none")
    try:
        if arguments.side == "optuna":
            search_plainly(plan, context, joint, n_threads=arguments.threads)
        else:
            search_nested(plan, context, joint, n_at_a_time=arguments.workers)
    except KeyboardInterrupt:  # the limit
        sys.exit(130)


def make_context(plan: StudyPlan, folder: StudyFolder, stores: Path) -> TrainingContext:
    """Return what all trials share: the same as in consilia's study of this plan."""
    store = prepare(plan.data, root=stores)
    test, fraction, on_leak = plan.data.test, plan.data.test_fraction, plan.data.on_leak
    folds = make_folds(store, k=plan.folds.k, seed=plan.seed, test=test, test_fraction=fraction, on_leak=on_leak)
    folder.trials.mkdir(parents=True)
    folds.save(folder.folds, store)
    return TrainingContext(
        store_folder=store.folder,
        folds=folds,
        training=plan.training,
        policy=plan.data.augmentation,
        architectures=join_spaces(plan.spaces, weights="none").architectures,
        metric=plan.search.metric,
        trials=folder.trials,
        seed=plan.seed,
        device="cpu",
        image_size=plan.image_size,
    )


def search_plainly(plan: StudyPlan, context: TrainingContext, joint: JointSpace, *, n_threads: int) -> None:
    """Search in this process, one trial after the other; torch may use `n_threads`."""
    set_threads(n_threads)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=make_sampler(plan.seed))
    for architecture in joint.start_with:
        study.enqueue_trial(joint.defaults(architecture))

    def objective(trial: optuna.Trial) -> float:
        return evaluate(context, trial.number, joint.suggest(trial), lambda mean: None)

    study.optimize(objective, n_trials=plan.search.trials)


def search_nested(plan: StudyPlan, context: TrainingContext, joint: JointSpace, *, n_at_a_time: int) -> None:
    """Let Tune run a function that fits a TorchTrainer in every trial, with Ray's OptunaSearch.

    Source: Ray 2.60, Ray Train user guide, Hyperparameter Tuning with Ray Tune.
    """
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    from consilia.cluster.connection import connect

    storage = context.trials.parent / "ray"
    searcher = OptunaSearch(
        space=partial(_define_by_run, joint),
        metric="score",
        mode="min",
        points_to_evaluate=[joint.defaults(architecture) for architecture in joint.start_with],
        sampler=make_sampler(plan.seed),
    )
    # One byte and no CPU for the function, which only waits: with Tune's default of one CPU, as many functions as there
    # are cores would leave none for their workers.
    trial = tune.with_resources(partial(_fit_trainer, context, storage), tune.PlacementGroupFactory([{"memory": 1}]))
    with connect(ClusterProfile(gpus_per_slot=0)):
        tune.Tuner(
            trial,
            tune_config=tune.TuneConfig(
                search_alg=searcher, num_samples=plan.search.trials, max_concurrent_trials=n_at_a_time
            ),
            run_config=tune.RunConfig(name="search", storage_path=str(storage), verbose=0),
        ).fit()


def make_sampler(seed: int) -> optuna.samplers.TPESampler:
    """Return a sampler that is set as consilia's is (docs/methods.md section 2)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            multivariate=True, group=True, constant_liar=True, n_startup_trials=10, seed=seed
        )


def evaluate(
    context: TrainingContext, number: int, hyperparameters: Hyperparameters, heard: Callable[[float], None]
) -> float:
    """Train all folds of a trial and write how it ended.

    Args:
        context: What all trials share.
        number: Of the trial.
        hyperparameters: Of the trial.
        heard: Told the mean score so far after each fold.

    Returns:
        The mean score over the folds; NaN if the trial failed.
    """
    done: list[FoldResult] = []

    def mean() -> float:
        return sum(fold.metrics[context.metric] for fold in done) / len(done)

    def listen(report: EpochReport) -> None:
        if report.fold_result is not None:
            done.append(report.fold_result)
            heard(mean())

    task = TrialTask(number=number, hyperparameters=hyperparameters)
    outcome = cross_validate(task, context, report=listen, stopped=lambda: False)
    finished = outcome.state == "finished"
    record = TrialRecord(
        number=number,
        state=outcome.state,
        hyperparameters=hyperparameters,
        folds=outcome.folds,
        objective=mean() if finished else None,
        reason=outcome.reason,
        seconds=outcome.seconds,
    )
    write_trial(context.trial(number).record, record)
    return mean() if finished else float("nan")


def _define_by_run(joint: JointSpace, trial: Any) -> dict[str, Any]:
    joint.suggest(trial)
    return {"number": trial.number}


def _fit_trainer(context: TrainingContext, storage: Path, config: dict[str, Any]) -> None:
    """Run one trial, in an actor of Tune."""
    from ray import train
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    callback: Any = TuneReportCallback()  # type: ignore[no-untyped-call] # Ray's is untyped, and no Callback to mypy
    TorchTrainer(
        partial(_train_worker, context),
        train_loop_config=config,
        scaling_config=train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=train.RunConfig(name=f"train-{config['number']}", storage_path=str(storage), callbacks=[callback]),
    ).fit()


def _train_worker(context: TrainingContext, config: dict[str, Any]) -> None:
    """Train all folds of one trial, in a worker of Ray Train, with one thread as its one CPU asks for."""
    from ray import train

    set_threads(1)
    values = {name: value for name, value in config.items() if name != "number"}
    hyperparameters = Hyperparameters.model_validate(values)
    evaluate(context, config["number"], hyperparameters, lambda mean: train.report({"score": mean}))


if __name__ == "__main__":
    main()
