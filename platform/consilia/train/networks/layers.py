"""What a built network shows of itself: its layers by depth, and where it pools.

Source: docs/methods.md sections 3 and 10.
"""

from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.models import group_parameters
from torch import nn

from consilia.errors import PlanError


def layer_groups(model: nn.Module) -> list[list[str]]:
    """Return the names of the model's parameters by depth: first layers first, the head alone last.

    Every parameter is in exactly one group.

    Args:
        model: A timm model, as `build_model` returns it.
    """
    matcher = model.group_matcher()  # type: ignore[operator] # a method of every timm model
    by_depth: dict[int, list[str]] = group_parameters(model, matcher)
    in_head = {id(parameter) for parameter in model.get_classifier().parameters()}  # type: ignore[operator] # as above
    head = [name for name, parameter in model.named_parameters() if id(parameter) in in_head]
    groups = [[name for name in by_depth[depth] if name not in head] for depth in sorted(by_depth)]
    last = groups.pop()
    if groups:
        groups[-1] += last  # what timm puts beside the head, a last norm say, belongs to the body
    else:
        groups = [last]
    return [group for group in groups if group] + [head]


def pooling_layer(model: nn.Module) -> nn.Module:
    """Return the layer that pools the last feature map, (b, features, height, width), over the image.

    timm builds it from one class in every convolutional network, so it is found without the network's name. Its
    input is the last thing in the network that has a place in the image.

    Args:
        model: A timm model, as `build_model` returns it.

    Raises:
        PlanError: It has none, like a vision transformer, or its maps have their features last.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, SelectAdaptivePool2d) and layer.pool_type]
    if not layers or getattr(model, "output_fmt", "NCHW") != "NCHW":
        raise PlanError(
            f"A network must pool feature maps (features, height, width) over the image, as ResNet, DenseNet and "
            f"EfficientNet do, to show where they lie, but timm's {type(model).__name__} does not."
        )
    return layers[-1]
