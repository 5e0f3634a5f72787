"""Heat maps of a network that learned to see planted lesions lie on them, and no longer once it forgets.

Source of the second: Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018.
"""

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

# Without dilation the tiny networks' cells are 16 or 32 pixels wide here, and a lesion is 8 to 12.
SPACE = """
family: dilated
architectures:
  net: {timm: test_resnet, arguments: {output_stride: 8}}
start_with: [net]
parameters: {}
"""

STUDY = """
name: heat
data: {{card: phantoms, path: "{phantoms}", size: 64}}
folds: {{k: 2}}
spaces: ["{space}"]
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

    def hits(self, found: list[Explanation], *, tolerance: float) -> float:
        """Return the share of images whose peak is at most `tolerance` pixels outside the lesion."""
        distances = [self.distance(each, lesion) for each, lesion in zip(found, self.lesions, strict=True)]
        return float(np.mean([distance <= tolerance for distance in distances]))

    @staticmethod
    def distance(explanation: Explanation, lesion: np.ndarray) -> float:
        if explanation.peak is None:
            return np.inf
        return float(np.hypot(*(np.array(explanation.peak) + 0.5 - lesion[:2])) - lesion[2])


@pytest.fixture(scope="module")
def learned(tmp_path_factory, silent_view_class, one_thread) -> Learned:
    root = tmp_path_factory.mktemp("heat")
    phantoms = write_phantoms(root / "phantoms", patients=240, size=SIZE)
    (root / "space.yaml").write_text(SPACE)
    (root / "heat.yaml").write_text(STUDY.format(phantoms=phantoms, space=root / "space.yaml"))
    plan = read_single_plan(root / "heat.yaml", settings=["lr=1e-2", "mixup=0", "augmentation=0.3"])
    result = search(plan, studies=root / "studies", stores=root / "stores", view=silent_view_class()).result()
    table = pd.read_csv(phantoms / "metadata.csv").query("split == 'test' and label == 'nodule'")
    paths = [phantoms / path for path in table["path"]]
    right = [each.label == "nodule" for each in consilia.load(result.bundle, device="cpu").predict(paths)]
    lesions = table[["lesion_y", "lesion_x", "lesion_radius"]].to_numpy() * SIZE
    assert sum(right) >= 30
    return Learned(
        bundle=result.bundle, paths=[path for path, ok in zip(paths, right, strict=True) if ok], lesions=lesions[right]
    )


def forget(predictor) -> None:
    """Give every layer of every network fresh weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for network in predictor.networks.each(np.zeros((1, SIZE, SIZE, 1), np.uint8)):
            for layer in network.module.modules():
                if hasattr(layer, "reset_parameters"):
                    layer.reset_parameters()


def test_the_peak_lies_in_the_planted_lesion(learned):
    found = learned.explanations(consilia.load(learned.bundle, device="cpu"))
    assert learned.hits(found, tolerance=0) >= 0.8
    half = found[0].cell / 2
    assert half == 4
    # Lesions are all in the lungs, so a peak may hit by lying in the lungs: against the lesions of other images.
    by_chance = np.mean(
        [
            learned.distance(explanation, lesion) <= half
            for i, explanation in enumerate(found)
            for j, lesion in enumerate(learned.lesions)
            if i != j
        ]
    )
    assert by_chance <= 0.35


def test_fresh_weights_destroy_the_heat_maps(learned):
    predictor = consilia.load(learned.bundle, device="cpu")
    before = learned.explanations(predictor)
    forget(predictor)
    after = learned.explanations(predictor)
    assert learned.hits(after, tolerance=4) <= 0.4
    likeness = [
        np.corrcoef(one.heat_map.ravel(), other.heat_map.ravel())[0, 1]
        for one, other in zip(before, after, strict=True)
        if other.peak is not None
    ]
    assert np.mean([*likeness, 0.0]) <= 0.3
