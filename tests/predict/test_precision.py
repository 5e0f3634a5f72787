"""The precision that networks compute in changes how fast they are, and nothing else."""

import numpy as np
import pytest
import torch

import consilia
from consilia.bundle.golden import golden_images
from consilia.config.network import ModelSpec, Preprocessing
from consilia.config.space import Architecture
from consilia.errors import UserError
from consilia.predict.loading import load_predictor
from consilia.predict.networks import InTurn, ShownImages
from consilia.predict.precision import CheckedPrecision, fast_precisions
from consilia.predict.weights import LoadedNetwork
from consilia.train.networks.factory import build_model


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (11, 40, 36), dtype=np.uint8)


def make_networks(architecture="test_resnet", n=3, image_size=32):
    """Return networks that differ in weights, running statistics and normalisation."""
    networks = []
    for number in range(n):
        torch.manual_seed(number)
        spec = ModelSpec(architecture=Architecture(timm=architecture), n_classes=3, channels=1)
        module = build_model(spec).eval()
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
        preprocessing = Preprocessing(
            size=40, channels=1, image_size=image_size, mean=(0.4 + 0.1 * number,), std=(0.2 + 0.05 * number,)
        )
        networks.append(LoadedNetwork(member=number, fold=0, preprocessing=preprocessing, module=module))
    return networks


def shown(n=4):
    return ShownImages(torch.randint(0, 256, (n, 40, 40, 1), dtype=torch.uint8))


def probabilities(program, batch):
    return program(batch).double().softmax(dim=-1)


# --- programs


def test_bfloat16_stays_near_float32_and_differs_from_it():
    networks, batch = make_networks(), shown()
    found = probabilities(InTurn(networks, precision="bfloat16"), batch)
    expected = probabilities(InTurn(networks), batch)
    assert 0 < (found - expected).abs().max() < 1e-2


def test_bfloat16_with_weights_cast_once_equals_autocast_bit_for_bit():
    networks, batch = make_networks(), shown()
    found = InTurn(networks, precision="bfloat16")(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = [network.module(batch.inputs(network.preprocessing)) for network in networks]
    assert torch.equal(found, torch.stack(expected).float())


def test_casting_weights_leaves_the_networks_as_they_are():
    networks, batch = make_networks(), shown()
    before = InTurn(networks)(batch)
    InTurn(networks, precision="bfloat16")
    assert torch.equal(before, InTurn(networks)(batch))


def test_logits_come_in_the_order_of_the_networks_whatever_their_sizes():
    small, large = make_networks(image_size=28), make_networks("test_efficientnet", n=2)
    mixed = [small[0], large[0], small[1], large[1], small[2]]
    images = shown(5)
    expected = [network.module(images.inputs(network.preprocessing)) for network in mixed]
    assert torch.equal(InTurn(mixed)(images), torch.stack(expected))


# --- through the predictor


def test_bfloat16_moves_no_probability_by_more_than_a_hundredth(built_bundle, predictor, images):
    fast = load_predictor(built_bundle, device="cpu", precision="bfloat16")
    difference = np.abs(fast.predict_proba(images) - predictor.predict_proba(images)).max()
    assert 0 < difference <= 1e-2


@pytest.mark.parametrize("batch_size", [1, 64])
def test_neither_batch_size_nor_order_matters(predictor, images, batch_size):
    found = predictor.predict_proba(images[::-1], batch_size=batch_size)[::-1]
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


def inputs_of(network: LoadedNetwork, pixels: np.ndarray) -> torch.Tensor:
    return ShownImages(torch.from_numpy(pixels)).inputs(network.preprocessing)


def say(network: LoadedNetwork, pixels: np.ndarray) -> torch.Tensor:
    return network.module(inputs_of(network, pixels))


def test_an_unknown_precision_is_refused_with_the_choices(built_bundle):
    with pytest.raises(UserError, match=r"must be one of float32, bfloat16"):
        load_predictor(built_bundle, device="cpu", precision="float16")


def test_the_modules_that_explanations_ask_compute_in_float32_whatever_runs(built_bundle, predictor):
    pixels = golden_images(predictor.document.reading)
    fast = load_predictor(built_bundle, device="cpu", precision="bfloat16")
    for one, other in zip(fast.networks.loaded, predictor.networks.loaded, strict=True):
        assert torch.equal(say(one, pixels), say(other, pixels))


def test_float32_says_what_each_network_says_alone_bit_for_bit(predictor):
    pixels = golden_images(predictor.document.reading)
    expected = [say(network, pixels).numpy() for network in predictor.networks.loaded]
    np.testing.assert_array_equal(
        predictor.networks.logits(pixels).reshape(len(expected), *expected[0].shape), expected
    )


# --- chosen by itself


class Moved:
    """A program that computes in some precision, and moves every logit by so much."""

    def __init__(self, precision, move):
        self.precision, self.move, self.n_batches = precision, move, 0

    def __call__(self, shown):
        self.n_batches += 1
        logits = torch.zeros(1, len(shown), 2)
        logits[..., 0] += self.move
        return logits


def checked(*moves, refuses=False):
    programs = [Moved(precision, move) for precision, move in moves]
    exact = Moved("float32", 0.0)
    assess = lambda logits: logits[0].softmax(dim=-1).numpy()  # noqa: E731 # as short as it is
    return CheckedPrecision(programs, exact, assess, refuses=refuses), [*programs, exact]


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ([("bfloat16", 0.001), ("tfloat32", 0.0)], "bfloat16"),
        ([("bfloat16", 1.0), ("tfloat32", 0.001)], "tfloat32"),
        ([("bfloat16", np.nan), ("tfloat32", 0.001)], "tfloat32"),
        ([("bfloat16", 1.0), ("tfloat32", 1.0)], "float32"),
    ],
)
def test_the_fastest_precision_that_moves_no_probability_too_far_is_taken(moves, expected):
    program, tried = checked(*moves)
    logits = program.check([0, 1, 2], of="the golden inputs")
    assert program.precision == expected
    (taken,) = [each for each in tried if each.precision == expected]
    assert torch.equal(logits, taken([0, 1, 2]))


def test_a_precision_that_passed_the_golden_inputs_gives_way_at_the_first_batch_and_never_later():
    program, (fast, _, exact) = checked(("bfloat16", 0.0), ("tfloat32", 0.0))
    program.check([0], of="the golden inputs")
    assert program.precision == "bfloat16"
    fast.move = 1.0
    assert torch.equal(program([0, 1]), torch.zeros(1, 2, 2))
    assert program.precision == "tfloat32"
    n_exact = exact.n_batches
    program([0, 1])
    assert exact.n_batches == n_exact


def test_a_precision_that_was_asked_for_by_name_does_not_give_way():
    program, _ = checked(("bfloat16", 1.0), refuses=True)
    with pytest.raises(UserError, match=r"precision='bfloat16' may move .* on the golden inputs it moves one by 0"):
        program.check([0], of="the golden inputs")
    assert program.precision == "bfloat16"


def test_a_cpu_computes_in_float32_unless_told_otherwise(built_bundle, images):
    assert fast_precisions(torch.device("cpu")) == ()
    predictor = consilia.load(built_bundle, device="cpu")
    assert (predictor.precision, predictor.predict(images).precision) == ("float32", "float32")
    fast = consilia.load(built_bundle, device="cpu", precision="bfloat16")
    assert fast.predict(images)[:3].precision == "bfloat16"
    assert fast.predict_patients(images, list("aabbccddeff")).precision == "bfloat16"


def test_a_device_that_is_made_for_less_than_float32_uses_it_and_the_result_says_so(built_bundle, images, monkeypatch):
    monkeypatch.setattr("consilia.predict.precision.fast_precisions", lambda _: ("bfloat16", "tfloat32"))
    assert consilia.load(built_bundle, device="cpu").predict(images).precision == "bfloat16"
    assert consilia.load(built_bundle, device="cpu", precision="float32").precision == "float32"
    assert consilia.load(built_bundle, device="cpu").with_members(1).precision == "bfloat16"


@pytest.mark.gpu
def test_a_gpu_predicts_in_less_than_float32_and_near_what_a_cpu_does(built_bundle, predictor, images):
    found = consilia.load(built_bundle, device="cuda")
    assert found.precision in ("bfloat16", "tfloat32")
    difference = np.abs(found.predict_proba(images) - predictor.predict_proba(images)).max()
    assert difference <= 1.1e-2
