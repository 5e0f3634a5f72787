"""`export onnx`: onnxruntime says of images what the ensemble says, or nothing is written."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import consilia
from consilia.bundle.document import Member, Network
from consilia.bundle.reading import read_bundle
from consilia.cli.app import run
from consilia.config.network import ModelSpec, Preprocessing
from consilia.config.space import Architecture
from consilia.decision.calibrators import Identity, Isotonic, Temperature, TemperatureBias, calibrate, pool_folds
from consilia.decision.combination import LinearPool
from consilia.errors import RunError, UserError
from consilia.export.onnx_files import trace, write_onnx
from consilia.export.onnx_graph import calibrated, pooled
from consilia.metrics.scores import softmax
from consilia.predict.networks import FoldEnsembles
from consilia.train.network_files import write_weights
from consilia.train.networks.factory import build_model

CALIBRATORS = [
    Identity(),
    Temperature(temperature=0.4),
    TemperatureBias(temperature=2.5, biases=(0.7, -0.7)),
    Isotonic(inputs=(0.1, 0.4, 0.45, 0.9), outputs=(0.02, 0.02, 0.6, 0.97)),
]
FAMILIES = {
    "resnet": Architecture(timm="test_resnet"),
    "densenet": Architecture(timm="densenet121", arguments={"growth_rate": 12, "block_config": (3, 3, 3)}),
    "efficientnet": Architecture(timm="test_efficientnet"),
}


def draw(n_images, side, channels):
    """Return squares of large patches with noise on them: networks tell them apart, and shrinking must average."""
    generator = np.random.default_rng(n_images)
    patches = np.kron(generator.integers(0, 128, (n_images, 4, 4, channels)), np.ones((1, side // 4, side // 4, 1)))
    return (patches + generator.integers(0, 128, patches.shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def three_families(tmp_path_factory) -> FoldEnsembles:
    """An ensemble of a member a family, each of two folds; their images shrink by much, by little, and not at all."""
    folder = tmp_path_factory.mktemp("weights")
    members, files = [], {}
    for number, (architecture, side) in enumerate(zip(FAMILIES.values(), (32, 64, 48), strict=True)):
        spec, networks = ModelSpec(architecture=architecture, n_classes=2, channels=3), []
        for fold in range(2):
            torch.manual_seed(10 * number + fold)
            shown = Preprocessing(
                size=64, channels=3, image_size=side, mean=(0.4, 0.5, 0.45 + 0.01 * fold), std=(0.2, 0.3, 0.25)
            )
            model = build_model(spec)
            for parameter in model.get_classifier().parameters():
                torch.nn.init.normal_(parameter, std=0.5)  # so that images differ in their probabilities
            name = f"{number}-{fold}"
            files[name] = folder / f"{name}.safetensors"
            write_weights(files[name], model.state_dict(), model=spec, preprocessing=shown)
            networks.append(Network(file=name, fold=fold, preprocessing=shown))
        members.append(Member(trial=number, weight=1 / 3, architecture="it", model=spec, networks=tuple(networks)))
    pool = LinearPool(weights=(0.5, 0.2, 0.3))
    return FoldEnsembles(members, files, combination=pool, device=torch.device("cpu"))


@pytest.mark.parametrize("calibrator", CALIBRATORS, ids=lambda each: each.kind)
@pytest.mark.parametrize("n_folds", [1, 3])
def test_the_graph_calibrates_and_pools_as_a_bundle_does(calibrator, n_folds):
    folds = softmax(8 * np.random.default_rng(1).normal(size=(n_folds, 400, 2)))
    found = calibrated(torch.from_numpy(folds), calibrator)
    np.testing.assert_allclose(found.numpy(), calibrate(calibrator, folds), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(pooled(found).numpy(), pool_folds(calibrator, folds), rtol=1e-12, atol=1e-15)


def test_onnxruntime_computes_what_networks_of_all_families_compute_for_batches_of_any_size(three_families, tmp_path):
    calibrator = CALIBRATORS[-1]
    trace(three_families, calibrator, draw(2, 64, 3)).save(tmp_path / "graph.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx", providers=["CPUExecutionProvider"])
    for n_images in (1, 2, 37):
        squares = draw(n_images, 64, 3)
        expected = pool_folds(calibrator, three_families.probabilities(squares))
        (found,) = session.run(None, {"images": squares})
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected[:, 1]) > 0.02  # a constant would agree with anything


@pytest.fixture(scope="module")
def exported(built_bundle, tmp_path_factory):
    """The bundle of two trials as a graph."""
    folder = tmp_path_factory.mktemp("exports") / "graph"
    consilia.export_onnx(built_bundle, folder, images=draw(5, 40, 1))
    return folder


def test_the_reference_beside_the_graph_needs_numpy_and_onnxruntime_alone_and_gives_the_ensemble_s_labels(
    exported, predictor, tmp_path
):
    squares = draw(7, 32, 1)
    np.save(tmp_path / "squares.npy", squares)
    program = f"""
import runpy, sys
sys.path = [each for each in sys.path if "platform" not in each]
sys.argv = ["reference.py", {str(tmp_path / "squares.npy")!r}]
runpy.run_path({str(exported / "reference.py")!r}, run_name="__main__")
assert not {{"torch", "consilia", "timm", "PIL"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split("  ") for line in done.stdout.splitlines()]
    expected = predictor.predict(list(squares[..., 0]))
    assert [row[0] for row in rows] == [each.label for each in expected]
    for row, each in zip(rows, expected, strict=True):
        assert [share.split()[0] for share in row[1:]] == list(each.probabilities)
        found = [float(share.split()[1]) for share in row[1:]]
        np.testing.assert_allclose(found, list(each.probabilities.values()), atol=2e-6)


def test_what_lies_beside_the_graph_says_what_it_takes_and_what_it_leaves_out(exported, built_bundle):
    about, document = json.loads((exported / "export.json").read_text()), read_bundle(built_bundle)
    graph = onnx.load(exported / "graph.onnx")
    (taken,), (given,) = graph.graph.input, graph.graph.output
    assert (taken.name, given.name) == (about["input"]["name"], about["output"]["name"])
    dimensions = [each.dim_param or each.dim_value for each in taken.type.tensor_type.shape.dim]
    assert dimensions == about["input"]["shape"] == ["batch", 32, 32, 1]
    assert [each.version for each in graph.opset_import if each.domain == ""] == [about["opset"]]
    assert about["bundle_digest"] == json.loads((built_bundle / "ensemble.json").read_text())["digest"]
    assert len(about["in_the_graph"]) == sum(len(member.networks) for member in document.members)
    assert about["compared"]["images"] == 5
    properties = {each.key: each.value for each in graph.metadata_props}
    for place in (" ".join((exported / "README.md").read_text().split()), properties["note"]):
        for missing in ("Prediction sets", "Reasons for review", "The gate for unusual images"):
            assert missing in place
    assert (exported / "card.md").read_text() == (built_bundle / "card.md").read_text()


def test_a_graph_that_answers_otherwise_is_refused_and_nothing_is_left(trained, tmp_path):
    predictor = consilia.load(trained.bundle, device="cpu")
    other = predictor.document.model_copy(update={"calibrator": Temperature(temperature=30)})
    with pytest.raises(RunError, match=r"within 0\.0001 and the same labels, but on the 4 golden images it differs by"):
        write_onnx(
            trained.bundle, replace(predictor, document=other), tmp_path / "out", squares=draw(0, 32, 1), source="none"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_label_that_differs_is_refused_however_near_the_probabilities(predictor):
    from consilia.export import onnx_files

    said, heard = np.array([[0.5 + 1e-6, 0.5 - 1e-6]]), np.array([[0.5 - 1e-6, 0.5 + 1e-6]])
    with pytest.raises(RunError, match="in 1 labels"):
        onnx_files.check_difference("it", "golden", said, heard)
    assert onnx_files.check_difference("it", "golden", said, said) == 0


def test_images_of_a_study_are_compared_but_none_of_its_locked_test(trained, tmp_path):
    study = consilia.open_study(trained.folder.root, stores=trained.stores)
    done = consilia.export_onnx(trained.bundle, tmp_path / "graph", study=study)
    assert done.n_images == len(study.folds.pool) < len(study.store)
    compared = json.loads((tmp_path / "graph" / "export.json").read_text())["compared"]
    assert compared["source"] == f"of the folds of study {study.name}"
    assert (trained.folder.root / "test_openings.jsonl").read_text().count("\n") == 1  # the study's own evaluation


def test_the_command_says_what_was_compared_and_refuses_a_folder_that_holds_something(trained, tmp_path, capsys):
    Image.fromarray(draw(1, 40, 1)[0, ..., 0]).save(tmp_path / "image.png")
    ask = partial(
        run, ["export", "onnx", str(trained.bundle), str(tmp_path / "image.png"), "--to", str(tmp_path / "g")]
    )
    assert ask() == 0
    printed = capsys.readouterr().out
    assert "1 compared: every label is the same" in printed
    assert "what it leaves out: prediction sets, reasons for review, the gate" in printed
    assert ask() == 2
    assert "must be a new or an empty folder" in capsys.readouterr().err


def test_images_and_a_study_are_not_both_taken(built_bundle, trained, tmp_path):
    study = consilia.open_study(trained.folder.root, stores=trained.stores)
    with pytest.raises(UserError, match="Leave one of them out"):
        consilia.export_onnx(built_bundle, tmp_path / "graph", images=draw(2, 40, 1), study=study)
