"""What a built network shows of itself: its layers by depth. Source: docs/methods.md section 3."""

from timm.models import group_parameters
from torch import nn


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
