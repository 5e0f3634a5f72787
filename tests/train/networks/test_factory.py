import pytest
import torch

from consilia.config.network import ModelSpec
from consilia.config.space import Architecture
from consilia.errors import PlanError
from consilia.train.networks.factory import build_model, check_architecture, check_image_size

TINY_DENSENET = Architecture(timm="densenet121", arguments={"growth_rate": 12, "block_config": (3, 3, 3)})


def spec(timm_name: str, **changes) -> ModelSpec:
    return ModelSpec(**{"architecture": Architecture(timm=timm_name), "n_classes": 3, "channels": 1, **changes})


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_a_network_maps_images_to_one_logit_a_class(channels, n_classes):
    model = build_model(spec("test_resnet", channels=channels, n_classes=n_classes)).eval()
    assert model(torch.zeros(2, channels, 28, 28)).shape == (2, n_classes)


def test_arguments_change_the_network():
    model = build_model(ModelSpec(architecture=TINY_DENSENET, n_classes=2, channels=1))
    assert sum(parameter.numel() for parameter in model.parameters()) < 100_000


def test_head_dropout_and_drop_path_reach_the_network():
    model = build_model(spec("test_resnet", head_dropout=0.3, drop_path=0.2))
    assert model.drop_rate == 0.3
    rates = [getattr(module, "drop_prob", 0.0) for module in model.modules()]
    assert max(rates) == pytest.approx(0.2)


def test_a_densenet_refuses_drop_path_by_name():
    with pytest.raises(PlanError, match=r"densenet121 takes no drop path, but drop_path is 0\.1"):
        build_model(spec("densenet121", drop_path=0.1))
    build_model(ModelSpec(architecture=TINY_DENSENET, n_classes=2, channels=1, drop_path=0.0))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (Architecture(timm="densnet121"), "'densnet121': did you mean 'densenet121'"),
        (Architecture(timm="resnet18.a1_in1kk"), r"did you mean 'resnet18\.a1_in1k'"),
        (Architecture(timm="hf-hub:someone/something"), "'hf-hub:someone/something'"),
        (Architecture(timm="local-dir:/tmp"), "'local-dir:/tmp'"),
        (
            Architecture(timm="densenet121", arguments={"grow_rate": 12}),
            "'grow_rate': did you mean 'growth_rate'",
        ),
        (Architecture(timm="densenet121", arguments={"checkpoint_path": "x.pth"}), "'checkpoint_path'"),
        (Architecture(timm="densenet121", arguments={"num_classes": 7}), "'num_classes'"),
        (Architecture(timm="densenet121", arguments={"block_config": "many"}), "'block_config': 'many'"),
    ],
)
def test_a_wrong_architecture_is_refused_with_its_name_and_a_near_match(architecture, message):
    with pytest.raises(PlanError, match=message):
        check_architecture(architecture)


def test_a_right_architecture_passes_and_may_name_its_weights():
    check_architecture(TINY_DENSENET)
    check_architecture(Architecture(timm="resnet18.a1_in1k"))


def test_an_image_size_below_what_the_network_takes_is_refused_with_the_smallest_that_fits():
    densenet = spec("densenet121")
    with pytest.raises(PlanError, match="densenet121 cannot take images of 28 px: its smallest is 29 px"):
        check_image_size(densenet, 28)
    check_image_size(densenet, 29)
    build_model(densenet).eval()(torch.zeros(1, 1, 29, 29))  # the shapes did not lie


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_tiny_networks_take_28_px(name):
    check_image_size(spec(name), 28)
