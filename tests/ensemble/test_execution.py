"""How the networks compute changes how fast they are, and nothing else."""

import numpy as np
import pytest
import torch

import consilia
from consilia.bundle.golden import golden_images
from consilia.config.space import Architecture
from consilia.errors import UserError
from consilia.predict.execution import EnsembleExecution, Running
from consilia.predict.loading import load_predictor
from consilia.predict.programs import InTurn, LoadedNetwork, ShownImages, Together, kind_of
from consilia.predict.timing import Timing
from consilia.train.input import Preprocessing
from consilia.train.networks.factory import ModelSpec, build_model
from consilia.train.networks.features import logits_and_features

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (11, 40, 36), dtype=np.uint8)


def make_networks(architecture="test_resnet", n=3, image_size=32, drop_path=0.0):
    """Return networks that differ in weights, running statistics and normalisation."""
    networks = []
    for number in range(n):
        torch.manual_seed(number)
        spec = ModelSpec(
            architecture=Architecture(timm=architecture), n_classes=3, channels=1, drop_path=drop_path * number
        )
        module = build_model(spec).eval()
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
        preprocessing = Preprocessing(
            size=40, channels=1, image_size=image_size, mean=(0.4 + 0.1 * number,), std=(0.2 + 0.05 * number,)
        )
        networks.append(LoadedNetwork(member=number, fold=0, spec=spec, preprocessing=preprocessing, module=module))
    return networks


def shown(n=4):
    return ShownImages(torch.randint(0, 256, (n, 40, 40, 1), dtype=torch.uint8))


def probabilities(program, batch):
    return torch.stack(program(batch)).double().softmax(dim=-1)


# --- programs


@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet", "densenet121", "resnet18"])
def test_networks_together_say_what_each_says_alone(architecture):
    networks, batch = make_networks(architecture, image_size=36), shown()
    found, expected = Together(networks)(batch), InTurn(networks)(batch)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected[0], expected[1])


@pytest.mark.parametrize("program", [InTurn, Together])
def test_bfloat16_stays_near_float32_and_differs_from_it(program):
    networks, batch = make_networks(), shown()
    found = probabilities(program(networks, precision="bfloat16"), batch)
    expected = probabilities(InTurn(networks), batch)
    assert 0 < (found - expected).abs().max() < 1e-2


def test_bfloat16_with_weights_cast_once_equals_autocast_bit_for_bit():
    networks, batch = make_networks(), shown()
    found = InTurn(networks, precision="bfloat16")(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = [network.module(batch.inputs(network.preprocessing)) for network in networks]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_building_programs_leaves_the_networks_as_they_are():
    networks, batch = make_networks(), shown()
    before = InTurn(networks)(batch)
    for precision in ("float32", "bfloat16"):
        Together(networks, precision=precision)
        InTurn(networks, precision=precision)
    assert all(torch.equal(one, other) for one, other in zip(before, InTurn(networks)(batch), strict=True))


def test_what_acts_in_training_only_makes_no_other_kind_but_the_image_size_does():
    plain, dropped = make_networks(drop_path=0.1, n=2)
    assert kind_of(plain) == kind_of(dropped)
    assert kind_of(plain) != kind_of(make_networks(image_size=28, n=1)[0])
    batch = shown()
    torch.testing.assert_close(Together([plain, dropped])(batch)[1], InTurn([dropped])(batch)[0], atol=1e-5, rtol=1e-5)


# --- the choice


def execution(networks, choice, *, device=CPU, timings=None, measure=None):
    program = EnsembleExecution(
        networks, Running(execution=choice), device=device, timings=timings, measure=measure or no_measurement
    )
    program.prepare(shown(), batch_size=8)
    return program


def no_measurement(in_turn, together):
    raise AssertionError("nothing was to be measured")


GPU = torch.device("cuda")  # only its name is looked at; the networks of these tests compute on the CPU


@pytest.fixture
def gpu_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU of the tests")


def test_logits_come_in_the_order_of_the_networks_whatever_runs_together():
    small, large = make_networks(image_size=28), make_networks("test_efficientnet", n=2)
    mixed = [small[0], large[0], small[1], large[1], small[2]]
    images = shown(5)
    expected = torch.stack(InTurn(mixed)(images))
    assert torch.equal(execution(mixed, "sequential")(images), expected)
    torch.testing.assert_close(execution(mixed, "batched")(images), expected, atol=1e-5, rtol=1e-5)


def test_on_a_cpu_nothing_is_chosen_by_the_clock():
    program = execution(make_networks(), "auto")
    assert program.description == {"3 test_resnet at 32 px, networks 0 to 2": "one after the other"}


@pytest.mark.parametrize(("together", "expected"), [(0.01, "together"), (0.05, "one after the other")])
def test_on_a_gpu_the_faster_way_runs_and_is_remembered(gpu_name, tmp_path, together, expected):
    networks, timings, measured = make_networks(), tmp_path / "execution.json", []

    def measure(in_turn, both):
        measured.append((in_turn, both))
        return Timing(in_turn=0.02, together=together)

    program = execution(networks, "auto", device=GPU, timings=timings, measure=measure)
    images = shown(7)
    program(images)  # of the size that was measured at load, but for one
    assert len(measured) == 1
    assert list(program.description.values()) == [f"{expected} at 8 images"]
    program(images.repeated(2))
    assert len(measured) == 2
    again = execution(networks, "auto", device=GPU, timings=timings)  # would refuse to measure
    assert torch.equal(again(images), program(images))


def test_networks_that_say_something_else_together_are_not_run_together(gpu_name, monkeypatch, tmp_path):
    networks = make_networks()
    wrong = make_networks(n=4)[1:]
    monkeypatch.setattr("consilia.predict.execution.Together", lambda _, precision: Together(wrong))
    program = execution(networks, "auto", device=GPU, timings=tmp_path / "execution.json")
    assert "since a probability of the golden inputs differs by" in next(iter(program.description.values()))
    with pytest.raises(UserError, match=r"execution='batched' must run 3 test_resnet .* differs by"):
        execution(networks, "batched")


# --- through the predictor


def test_batched_predictions_equal_sequential_ones_and_the_predictor_says_which_it_is(built_bundle, images):
    sequential = consilia.load(built_bundle, device="cpu", execution="sequential")
    batched = consilia.load(built_bundle, device="cpu", execution="batched")
    np.testing.assert_allclose(batched.predict_proba(images), sequential.predict_proba(images), atol=1e-6)
    assert set(sequential.execution.values()) == {"one after the other"}
    assert set(batched.execution.values()) == {"together"}


@pytest.mark.parametrize("execution", ["sequential", "batched"])
def test_bfloat16_moves_no_probability_by_more_than_a_hundredth(built_bundle, predictor, images, execution):
    fast = load_predictor(built_bundle, device="cpu", precision="bfloat16", execution=execution)
    difference = np.abs(fast.predict_proba(images) - predictor.predict_proba(images)).max()
    assert 0 < difference <= 1e-2


@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.parametrize("execution", ["sequential", "batched"])
def test_neither_batch_size_nor_order_matters_in_either_execution(
    built_bundle, predictor, images, execution, batch_size
):
    chosen = load_predictor(built_bundle, device="cpu", execution=execution)
    found = chosen.predict_proba(images[::-1], batch_size=batch_size)[::-1]
    np.testing.assert_allclose(found, predictor.predict_proba(images), atol=1e-6)


def test_an_ensemble_that_bfloat16_moves_at_load_is_refused(built_bundle, monkeypatch):
    monkeypatch.setattr("consilia.predict.precision.LARGEST_MOVE", 1e-9)
    with pytest.raises(UserError, match=r"on the golden inputs it moves one by .*precision='float32'"):
        load_predictor(built_bundle, device="cpu", precision="bfloat16")


def test_an_ensemble_that_bfloat16_moves_on_the_first_batch_only_is_refused_there(built_bundle, images, monkeypatch):
    fast = load_predictor(built_bundle, device="cpu", precision="bfloat16")
    monkeypatch.setattr("consilia.predict.precision.LARGEST_MOVE", 1e-9)
    for _ in range(2):  # a refusal is no check that was passed
        with pytest.raises(UserError, match="on the first batch of images it moves one by"):
            fast.predict(images)
    monkeypatch.undo()
    fast.predict(images)
    monkeypatch.setattr("consilia.predict.precision.LARGEST_MOVE", 1e-9)
    fast.predict(images)  # later batches are not compared


@pytest.mark.parametrize("option", [{"precision": "float16"}, {"execution": "fast"}])
def test_an_unknown_precision_or_execution_is_refused_with_the_choices(built_bundle, option):
    with pytest.raises(UserError, match=r"must be one of .*sequential|must be one of float32, bfloat16"):
        load_predictor(built_bundle, device="cpu", **option)


def test_the_modules_that_explanations_ask_compute_in_float32_whatever_runs(built_bundle, predictor):
    pixels = golden_images(predictor.document.reading)
    fast = load_predictor(built_bundle, device="cpu", precision="bfloat16", execution="batched")
    for one, other in zip(fast.networks.each(pixels), predictor.networks.each(pixels), strict=True):
        assert torch.equal(one.module(one.inputs), other.module(other.inputs))


def test_the_sequential_execution_in_float32_is_the_golden_one_bit_for_bit(built_bundle, predictor):
    pixels = golden_images(predictor.document.reading)
    plain = predictor.networks.running(
        EnsembleExecution(predictor.networks.loaded, Running(execution="sequential"), device=CPU)
    )
    expected = [network.module(network.inputs).numpy() for network in predictor.networks.each(pixels)]
    np.testing.assert_array_equal(plain.logits(pixels).reshape(len(expected), *expected[0].shape), expected)


@pytest.mark.parametrize("options", [{}, {"execution": "batched"}, {"precision": "bfloat16"}])
def test_features_are_those_of_the_network_itself_and_cost_no_logits(built_bundle, predictor, options):
    pixels = golden_images(predictor.document.reading)
    networks = load_predictor(built_bundle, device="cpu", **options).networks
    logits, features = networks.logits_and_features(pixels, of=(1, 2))
    (network,) = [each for each in predictor.networks.each(pixels) if (each.member, each.fold) == (1, 2)]
    expected = logits_and_features(network.module, network.inputs)
    np.testing.assert_array_equal(logits[1, 2], expected[0])
    np.testing.assert_array_equal(features, expected[1])
    np.testing.assert_allclose(logits, networks.logits(pixels), atol=0.02 if "precision" in options else 1e-5)


def test_what_is_known_is_not_computed():
    networks, batch = make_networks(), shown()
    known = torch.full((4, 3), 7.0)
    networks[1].module.forward = None
    found = execution(networks, "sequential")(batch, {1: known})
    assert torch.equal(found[1], known)
