"""A whole study in this process, with no Ray, told as plain facts: what a change of structure must not change.

`python tests/whole_study.py FILE` writes the facts; `tests/study/test_equality.py` compares them.
"""

import hashlib
import json
import platform
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from safetensors.numpy import load_file

from consilia import load
from consilia.config.recipe import EnsembleRecipe
from consilia.config.records import EpochReport, RefitProgress, TaskTaken, TrialRecord, TrialTask
from consilia.config.study import StudyPlan
from consilia.config.study_folder import StudyFolder
from consilia.data.phantoms import write_phantoms
from consilia.study.combine import combine
from consilia.study.folder import claim_folder
from consilia.study.opened import OpenStudy
from consilia.study.plan import read_plan
from consilia.study.refit import missing_refits
from consilia.study.run import make_missing_folds
from consilia.train.cross_validation import cross_validate
from consilia.tune.ledger import Ledger
from consilia.tune.refitting import refit_here
from consilia.tune.search import open_controller

PLAN = {
    "name": "equal",
    "data": {"card": "phantoms", "path": "phantoms", "size": 32},
    "folds": {"k": 2},
    "spaces": ["tiny"],
    # More trials than TPE's ten random ones, so that suggestions depend on scores, and so does who is stopped.
    "search": {"trials": 13, "keep_weights": 20, "stopping": {"kind": "racing", "halving": {"min_scores": 2}}},
    "training": {"epochs": 2, "batch_size": 16},
}
RECIPES = ("greedy_calibrated", "soft_vote", "fast")
FEWER_STEPS = {"bags": 4, "additions": 6}  # of the greedy selection, which BBC-CV repeats 200 times


class _Nobody:
    """Watches a search and says nothing."""

    def noted(self, text: str) -> None: ...

    def search_started(self, *, n_trials: int, n_slots: int, records: tuple[TrialRecord, ...]) -> None: ...

    def trial_started(self, task: TrialTask) -> None: ...

    def epoch_ended(self, report: EpochReport) -> None: ...

    def trial_ended(self, record: TrialRecord) -> None: ...

    def refitting(self, progress: RefitProgress) -> None: ...


def machine() -> str:
    """Name what the last bits of a float depend on."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "unknown")
    capability = torch.backends.cpu.get_cpu_capability()
    model = cpu.rpartition(":")[-1].strip()
    return f"torch {torch.__version__}, numpy {np.__version__}, {platform.machine()}, {capability}, {model}"


def run_whole_study(root: Path) -> dict[str, Any]:
    """Run the study below `root` with one thread; return its facts: floats as they are, arrays as digests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run(root)
    finally:
        torch.set_num_threads(before)


def _run(root: Path) -> dict[str, Any]:
    write_phantoms(root / "phantoms", patients=60, size=32)
    file = root / "study.yaml"
    file.write_text(yaml.safe_dump(PLAN | {"data": PLAN["data"] | {"path": str(root / "phantoms")}}))
    plan = read_plan(file)
    study = OpenStudy.of(plan, studies=root / "studies")
    with claim_folder(plan, study.studies) as folder:
        make_missing_folds(study)
        search_here(study)
        facts = facts_of_search(folder, plan)
        for name in RECIPES:
            content = yaml.safe_load((Path(__file__).parent.parent / "ensembles" / f"{name}.yaml").read_text())
            if content["selection"]["kind"] == "greedy":
                content["selection"] |= FEWER_STEPS
            recipe = EnsembleRecipe.model_validate(content)
            refit_missing(study, recipe)
            combine(study, recipe, test=True)
            facts[name] = _facts_of_bundle(folder.bundle(recipe.name), study.store.pixels[study.folds.test])
    return facts


def search_here(study: OpenStudy) -> None:
    """Search in this process, one trial after the other, as one slot would."""
    context, ledger = study.training_context("cpu"), Ledger(study.folder.ledger)
    controller = open_controller(study.plan, study.folder, _Nobody(), ledger=ledger)
    controller.reserve(1)
    while (task := controller.next_task()) is not None:
        controller.taken(TaskTaken(number=task.number, attempt=1))
        leaves = []

        def listen(report: EpochReport, leaves: list[str] = leaves) -> None:
            leaves.extend(filter(None, [controller.hear(report)]))

        outcome = cross_validate(task, context, report=listen, stopped=lambda leaves=leaves: bool(leaves))
        if outcome.state != "stopped":
            controller.end(outcome)
        controller.left(task.number)
    controller.close("the search ended")


def refit_missing(study: OpenStudy, recipe: EnsembleRecipe) -> None:
    """Train in this process what the recipe ships and nobody has trained."""
    missing = missing_refits(study, recipe)
    if missing:
        tasks = [TrialTask(number=each.number, hyperparameters=each.hyperparameters) for each in missing]
        refit_here(tasks, study.training_context("cpu"), study.folder, _Nobody())


def facts_of_search(folder: StudyFolder, plan: StudyPlan) -> dict[str, Any]:
    """Return folds, trials and out-of-fold logits of a finished search, without what a clock told."""
    trials = []
    for number in range(plan.search.trials):
        record = json.loads(folder.trial(number).record.read_text())
        for timed in (record, *record["folds"]):
            del timed["seconds"]
        out_of_fold = [pd.read_parquet(folder.trial(number).fold(each["fold"]).oof) for each in record["folds"]]
        trials.append({"record": record, "out_of_fold": [_digest(frame.to_numpy()) for frame in out_of_fold]})
    return {
        "folds": _digest(pd.read_parquet(folder.folds).drop(columns="group", errors="ignore").to_numpy()),
        "trials": trials,
    }


def _facts_of_bundle(bundle: Path, images: np.ndarray) -> dict[str, Any]:
    document = json.loads((bundle / "ensemble.json").read_text())
    predictions = load(bundle, device="cpu").predict(list(images[:, :, :, 0]), on_unknown_kind="as_displayed")
    return {
        "members": [(each["trial"], each["weight"]) for each in document["members"]],
        "calibrator": document["calibrator"],
        "sizes": document["sizes"],
        "honesty": document["honesty"],
        "safety": document["safety"],
        "gate": document["gate"],
        "evaluations": document["evaluations"],
        "weights": [_arrays(load_file(file)) for file in sorted((bundle / "members").glob("*"))],
        "arrays": {file.name: _arrays(dict(np.load(file))) for file in sorted(bundle.glob("*.npz"))},
        "predictions": [
            [each.label, each.confidence, each.probabilities, each.prediction_set, each.review] for each in predictions
        ],
    }


def _arrays(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    return {name: _digest(array) for name, array in sorted(arrays.items())}


def _digest(array: np.ndarray) -> str:
    content = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def facts_as_json(root: Path) -> str:
    """Run the study and return its facts as JSON, floats to their last bit, whatever day it is."""
    facts = json.dumps({"machine": machine(), **run_whole_study(root)}, indent=1, sort_keys=True, default=str)
    return re.sub(r"\b20\d\d-\d\d-\d\d\b", "some day", facts) + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        Path(sys.argv[1]).write_text(facts_as_json(Path(folder)), encoding="utf-8")
