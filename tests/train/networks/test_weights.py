"""Pretrained weights from files: every tensor of the body comes from there, or nothing is trained."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm import create_model

from consilia.config.network import ModelSpec
from consilia.config.space import Architecture
from consilia.config.study import HUB, WeightsSource
from consilia.errors import PlanError
from consilia.train.networks.pretrained import build_pretrained, pretrained_normalisation
from consilia.train.networks.weights import find_weights, require_weights

NAMES = ("test_resnet", "test_efficientnet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Weights of two networks of three channels and ten classes, under timm's names."""
    folder = tmp_path_factory.mktemp("weights")
    for name in NAMES:
        torch.manual_seed(1)
        save_file(create_model(name, num_classes=10).state_dict(), folder / f"{name}.safetensors")
    return folder


def spec(name: str, channels: int = 3) -> ModelSpec:
    return ModelSpec(architecture=Architecture(timm=name), n_classes=2, channels=channels)


def source(path: Path) -> WeightsSource:
    return WeightsSource(kind="file" if path.is_file() else "folder", path=path)


def first_layer(model: torch.nn.Module) -> str:
    return f"{model.default_cfg['first_conv']}.weight"


@pytest.mark.parametrize("name", NAMES)
def test_the_body_is_the_files_and_the_head_is_new(folder, name):
    model = build_pretrained(spec(name), source(folder))
    stored, own = load_file(folder / f"{name}.safetensors"), model.state_dict()
    head = {key for key in own if key.startswith(model.default_cfg["classifier"])}
    assert head
    for key in own.keys() - head:
        assert torch.equal(own[key], stored[key]), key
    assert own[min(head)].shape[0] == 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_channels_answer_as_three_equal_ones_would(folder, name, channels):
    """One grey channel sums the colours' weights; several share out the repeated ones, each times 3 / channels."""
    model = build_pretrained(spec(name, channels), source(folder))
    stored = load_file(folder / f"{name}.safetensors")[first_layer(model)]
    adapted = model.state_dict()[first_layer(model)]
    if channels == 1:
        expected = stored.sum(dim=1, keepdim=True)
    else:
        expected = torch.cat([stored] * 2, dim=1)[:, :channels] * 3 / channels
    assert torch.allclose(adapted, expected, atol=1e-7)


@pytest.mark.parametrize("name", [*NAMES, "tf_efficientnet_lite0"])
def test_a_new_head_begins_with_nearly_equal_probabilities(name, tmp_path):
    save_file(create_model(name).state_dict(), tmp_path / f"{name}.safetensors")
    model = build_pretrained(spec(name), source(tmp_path)).eval()
    with torch.no_grad():
        head = model.get_classifier()
        logits = head(torch.ones(1, head.in_features))
    assert logits.abs().max() < 2


def test_training_starts_from_the_same_body_whatever_the_random_state(folder):
    torch.manual_seed(0)
    one = build_pretrained(spec("test_resnet"), source(folder))
    torch.manual_seed(9)
    two = build_pretrained(spec("test_resnet"), source(folder))
    assert torch.equal(next(iter(one.parameters())), next(iter(two.parameters())))


def test_a_file_is_found_under_its_exact_name_only_since_tags_are_different_weights(folder, tmp_path):
    assert find_weights("test_resnet.r160_in1k", source(folder)) is None
    for name in ("resnet18", "resnet18.a1_in1k"):
        (tmp_path / f"{name}.safetensors").touch()
    assert find_weights("resnet18.a1_in1k", source(tmp_path)) == tmp_path / "resnet18.a1_in1k.safetensors"
    assert find_weights("resnet18.a2_in1k", source(tmp_path)) is None
    assert find_weights("resnet18", source(tmp_path)) == tmp_path / "resnet18.safetensors"


def test_one_file_is_for_one_model_alone(folder):
    file = source(folder / "test_resnet.safetensors")
    assert find_weights("test_resnet", file) == folder / "test_resnet.safetensors"
    assert find_weights("test_efficientnet", file) is None


def test_all_missing_models_are_named_with_both_ways_out(folder):
    with pytest.raises(PlanError) as caught:
        require_weights(["resnet18", "test_resnet", "densenet121"], source(folder))
    for part in ("resnet18, densenet121", "consilia weights fetch", "training.weights: none", str(folder)):
        assert part in str(caught.value)
    assert "test_resnet" not in str(caught.value).replace(str(folder), "")


def damaged(change) -> dict[str, torch.Tensor]:
    state = dict(create_model("test_resnet", num_classes=10).state_dict())
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.pop("layer1.0.conv1.weight"), r"lacks layer1\.0\.conv1\.weight"),
        (lambda state: state.update(novelty=torch.zeros(1)), "it alone has novelty"),
        (
            lambda state: state.update({"layer1.0.conv1.weight": torch.zeros(1, 2)}),
            r"must have shape .* but has \(1, 2\)",
        ),
    ],
)
def test_weights_of_another_network_are_refused_and_nothing_starts_from_scratch(tmp_path, change, says):
    save_file(damaged(change), tmp_path / "test_resnet.safetensors")
    with pytest.raises(PlanError, match=rf"test_resnet\.safetensors.*{says}"):
        build_pretrained(spec("test_resnet"), source(tmp_path))


def test_a_file_that_is_cut_short_is_refused_by_name(folder, tmp_path):
    whole = (folder / "test_resnet.safetensors").read_bytes()
    (tmp_path / "test_resnet.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PlanError, match=r"test_resnet\.safetensors cannot be read as safetensors"):
        build_pretrained(spec("test_resnet"), source(tmp_path))


def test_normalisation_follows_the_notes_of_the_file_and_else_timm(folder, tmp_path):
    state = load_file(folder / "test_resnet.safetensors")
    notes = {"mean": json.dumps([0.1, 0.2, 0.3]), "std": json.dumps([0.5, 0.6, 0.7])}
    save_file(state, tmp_path / "test_resnet.safetensors", metadata=notes)
    assert pretrained_normalisation(spec("test_resnet"), source(tmp_path)) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    mean, std = pretrained_normalisation(spec("test_resnet", channels=1), source(tmp_path))
    assert (mean, std) == (pytest.approx((0.2,)), pytest.approx((0.6,)))
    assert pretrained_normalisation(spec("test_resnet"), source(folder))[0] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("mean", ["[0.1, 0.2]", "grey", '["a"]', "[]", "[123.7, 116.3, 103.5]", "[NaN, 0.5, 0.5]"])
def test_notes_that_make_no_sense_are_refused(folder, tmp_path, mean):
    state = load_file(folder / "test_resnet.safetensors")
    save_file(state, tmp_path / "test_resnet.safetensors", metadata={"mean": mean, "std": "[1, 1, 1]"})
    with pytest.raises(PlanError, match="mean"):
        pretrained_normalisation(spec("test_resnet"), source(tmp_path))


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    save_file(
        damaged(lambda state: state["layer1.0.conv1.weight"].fill_(torch.nan)), tmp_path / "test_resnet.safetensors"
    )
    with pytest.raises(PlanError, match=r"layer1\.0\.conv1\.weight must hold finite numbers"):
        build_pretrained(spec("test_resnet"), source(tmp_path))


def test_a_first_layer_that_timm_cannot_adapt_is_refused_by_name(tmp_path):
    name = "naflexvit_base_patch16_gap"  # its first layer is linear
    save_file(create_model(name, depth=1).state_dict(), tmp_path / f"{name}.safetensors")
    architecture = Architecture(timm=name, arguments={"depth": 1})
    with pytest.raises(PlanError, match=rf"{name}\.safetensors: .*cannot be adapted"):
        build_pretrained(ModelSpec(architecture=architecture, n_classes=2, channels=1), source(tmp_path))


def test_layers_that_the_hubs_weights_lack_do_not_start_from_scratch(folder, monkeypatch):
    state = load_file(folder / "test_resnet.safetensors")
    monkeypatch.setattr("consilia.train.networks.pretrained.download", lambda name: (state, {}))
    build_pretrained(spec("test_resnet"), HUB)
    deeper = Architecture(timm="test_resnet", arguments={"layers": (2, 1, 1, 1)})
    with pytest.raises(PlanError, match=r"timm's weights of test_resnet .*lacks layer1\.1\."):
        build_pretrained(ModelSpec(architecture=deeper, n_classes=2, channels=1), HUB)


def test_the_real_weights_fit_their_network(real_data):
    model = build_pretrained(spec("tf_efficientnet_lite0", channels=1), source(real_data / "weights"))
    stored = load_file(real_data / "weights" / "tf_efficientnet_lite0.safetensors")
    assert torch.equal(model.state_dict()["bn1.running_mean"], stored["bn1.running_mean"])


@pytest.mark.parametrize("name", ["efficientnet_b6", "resnet34"])  # timm has none; the hub cannot be reached
def test_missing_pretrained_weights_are_an_error_that_names_the_model(name, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # its retries would take a minute
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PlanError, match=rf"'{name}'.*training\.weights: none"):
        build_pretrained(spec(name), HUB)


def test_the_normalisation_of_pretrained_weights_has_one_value_a_channel():
    grey_mean, grey_std = pretrained_normalisation(spec("densenet121", channels=1), HUB)
    mean, std = pretrained_normalisation(spec("densenet121", channels=3), HUB)
    assert mean == (0.485, 0.456, 0.406)
    assert std == (0.229, 0.224, 0.225)
    assert grey_mean == pytest.approx((sum(mean) / 3,))
    assert grey_std == pytest.approx((sum(std) / 3,))
