"""Heat maps of a network that learned to see planted lesions lie on them, and no longer once it forgets.

Source of the second: Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import consilia
from consilia import search
from consilia.data.phantoms import write_phantoms
from consilia.predict.explain import Explanation, explain
from consilia.study.plan import read_single_plan

pytestmark = pytest.mark.slow("trains networks until they see lesions; test_attribution checks maps of random ones")

SIZE = 64

FAMILIES = {
    "resnet": {"timm": "test_resnet"},
    "densenet": {"timm": "densenet121", "arguments": {"growth_rate": 12, "block_config": [3, 3, 3]}},
    "efficientnet": {"timm": "test_efficientnet"},
}

STUDY = """
name: heat
data: {{card: phantoms, path: "{phantoms}", size: 64}}
folds: {{k: 2}}
spaces:
  - {{family: heat, architectures: {{net: {network}}}, start_with: [net], parameters: {{}}}}
search: {{trials: 1}}
training: {{epochs: 16, batch_size: 32}}
ensemble: best_single
"""


@dataclass(frozen=True)
class Learned:
    """A trained ensemble, and the test images with a nodule that it calls one."""

    bundle: Path
    paths: list[Path]
    lesions: np.ndarray  # (n_images, 3): row, column, radius, in pixels

    def explanations(self, predictor) -> list[Explanation]:
        return [result for _, result in explain(predictor, self.paths, label="nodule")]

    @staticmethod
    def hits(explanation: Explanation, lesion: np.ndarray) -> bool:
        """Say whether the map's peak lies in the lesion; one that is not drawn has none."""
        peak = explanation.peak
        return peak is not None and bool(np.hypot(*(np.array(peak) + 0.5 - lesion[:2])) <= lesion[2])


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("heat") / "phantoms", patients=240, size=SIZE)


@pytest.fixture(scope="module", params=FAMILIES)
def learned(request, tmp_path_factory, phantoms, silent_view_class, one_thread) -> Learned:
    root = tmp_path_factory.mktemp("heat")
    network = json.dumps(FAMILIES[request.param])
    (root / "heat.yaml").write_text(STUDY.format(phantoms=phantoms, network=network))
    plan = read_single_plan(root / "heat.yaml", settings=["lr=1e-2", "mixup=0", "augmentation=0.3"])
    result = search(plan, studies=root / "studies", stores=root / "stores", view=silent_view_class()).result()
    table = pd.read_csv(phantoms / "metadata.csv").query("split == 'test' and label == 'nodule'")
    paths = [phantoms / path for path in table["path"]]
    right = [each.label == "nodule" for each in consilia.load(result.bundle, device="cpu").predict(paths)]
    lesions = table[["lesion_y", "lesion_x", "lesion_radius"]].to_numpy() * SIZE
    assert sum(right) >= 20
    return Learned(
        bundle=result.bundle, paths=[path for path, ok in zip(paths, right, strict=True) if ok], lesions=lesions[right]
    )


def forget(predictor) -> None:
    """Give every layer of every network fresh weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for network in predictor.networks.loaded:
            for layer in network.module.modules():
                if hasattr(layer, "reset_parameters"):
                    layer.reset_parameters()


def test_the_peak_lies_in_the_planted_lesion(learned):
    found = learned.explanations(consilia.load(learned.bundle, device="cpu"))
    assert np.mean([learned.hits(each, lesion) for each, lesion in zip(found, learned.lesions, strict=True)]) >= 0.8
    # Lesions are all in the lungs, so a peak may hit by lying in the lungs: against the lesions of other images.
    by_chance = np.mean(
        [
            learned.hits(explanation, lesion)
            for i, explanation in enumerate(found)
            for j, lesion in enumerate(learned.lesions)
            if i != j
        ]
    )
    assert by_chance <= 0.25


def test_of_networks_with_fresh_weights_no_map_is_drawn(learned):
    predictor = consilia.load(learned.bundle, device="cpu")
    forget(predictor)
    assert all("The details of this image" in each.says_nothing_because for each in learned.explanations(predictor))
