"""Where in the image the cells of a network's last feature map look.

It is tempting to draw cell i of n at (i + 1/2) / n of the side. But a convolution of three with stride 2 looks at the
pixels around 2i, half a pixel before the middle of the two that it stands for, and five of those add up to 15.5
pixels, half a cell of a ResNet: everything would be drawn half a cell too far up and left. A DenseNet pools by two
between its blocks and hardly has such a shift, dilation may have one the other way. So it is measured: the centre of a
cell is where its gradient with respect to the input has its centre of mass.

Source: docs/methods.md section 10; Luo et al., Understanding the Effective Receptive Field, NeurIPS 2016.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from captum.attr import NeuronGradient

from consilia.config.network import ModelSpec
from consilia.train.networks.factory import build_model
from consilia.train.networks.layers import pooling_layer

_N_IMAGES = 4  # of noise
_MOST_CELLS = 8  # measured along a side; centres between them are interpolated


def cell_centres(spec: ModelSpec, image_size: int) -> npt.NDArray[np.float64]:
    """Return the centres of the cells along a side as fractions of it, (n_cells,), ascending.

    Rows and columns are alike. The centres are a property of the architecture, so they are measured with fresh weights
    on noise: trained weights would draw them to what the images show. Every call returns the same, and torch's random
    state stays as it is.

    Args:
        spec: The network.
        image_size: Side of the square that the network sees, pixels.

    Raises:
        PlanError: As of `pooling_layer`.
    """
    return _measure(spec.model_dump_json(), image_size)


@lru_cache(maxsize=32)
def _measure(spec_json: str, image_size: int) -> npt.NDArray[np.float64]:
    """Do the work of `cell_centres` once; a specification itself cannot be hashed."""
    spec = ModelSpec.model_validate_json(spec_json)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(spec).eval()
        images = torch.randn(_N_IMAGES, spec.channels, image_size, image_size)
        layer = pooling_layer(model)
        n_cells, n_features = _shape(model, images[:1])
        directions = torch.randn(_N_IMAGES, n_features)
    images.requires_grad_()
    method = NeuronGradient(model, layer)
    axis = (np.arange(image_size) + 0.5) / image_size
    measured = np.unique(np.linspace(0, n_cells - 1, min(n_cells, _MOST_CELLS)).round().astype(int))
    centres = []
    for cell in measured.tolist():
        gradient = method.attribute(
            images,
            lambda features, cell=cell: (features[:, :, cell, cell] * directions).sum(dim=1),
            attribute_to_neuron_input=True,
        )
        mass = gradient.detach().double().square().sum(dim=(0, 1)).numpy()
        profile = mass.sum(axis=0) + mass.sum(axis=1)  # of columns and rows
        centres.append(float(profile @ axis / profile.sum()))
    ascending = np.maximum.accumulate(np.interp(np.arange(n_cells), measured, centres))
    ascending.flags.writeable = False  # it is cached
    return ascending


def _shape(model: torch.nn.Module, image: torch.Tensor) -> tuple[int, int]:
    """Return the number of cells along a side of the last feature map, and the number of its features."""
    with torch.inference_mode():
        features: torch.Tensor = model.forward_features(image)  # type: ignore[operator] # a method of every timm model
    return features.shape[2], features.shape[1]
