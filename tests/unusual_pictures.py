"""Phantoms and what is none, to tell apart; and a small network that knows phantoms after seconds of training."""

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from torch import nn

from consilia.config.network import ModelSpec, Preprocessing
from consilia.config.space import Architecture
from consilia.data.phantom_image import CLASSES, SCANNERS, draw_anatomy, draw_image
from consilia.train.input import network_input
from consilia.train.networks.factory import build_model

SIZE = 32
N_FOREIGN = 200
PREPROCESSING = Preprocessing(size=SIZE, channels=1, image_size=SIZE, mean=(0.35,), std=(0.25,))


def draw_phantoms(n, *, seed):
    """One image each of `n` patients, (n, SIZE, SIZE, 1), and their classes."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, len(CLASSES), n)
    scanners = list(SCANNERS.values())
    images = [
        draw_image(CLASSES[label], draw_anatomy(generator), scanners[i % 2], size=SIZE, generator=generator)[0]
        for i, label in enumerate(labels)
    ]
    return np.stack(images)[..., None], labels


def preprocess(size):
    return PREPROCESSING.model_copy(update={"size": size, "image_size": size})


def train(architecture, pixels, labels, *, n_classes):
    torch.manual_seed(0)
    model = build_model(ModelSpec(architecture=Architecture(timm=architecture), n_classes=n_classes, channels=1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    inputs, targets = network_input(torch.from_numpy(pixels), preprocess(pixels.shape[1])), torch.from_numpy(labels)
    for _ in range(6):
        for rows in torch.randperm(len(labels)).split(32):
            loss = nn.functional.cross_entropy(model(inputs[rows]), targets[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


def photos():
    """Grey crops of two photographs: a palace and a flower."""
    generator = np.random.default_rng(3)
    images = [Image.fromarray(image).convert("L") for image in load_sample_images().images]
    crops = []
    for number in range(N_FOREIGN):
        image, side = images[number % 2], int(generator.integers(100, 420))
        x, y = generator.integers(0, image.width - side), generator.integers(0, image.height - side)
        crops.append(np.array(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))))
    return np.stack(crops)[..., None]


def digits():
    images = [Image.fromarray((image * 15.9).astype(np.uint8)) for image in load_digits().images[:N_FOREIGN]]
    return np.stack([np.array(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for image in images])[..., None]


def plots():
    """Sheets of one to six ROC curves and bars, as papers print them."""
    generator, sheets = np.random.default_rng(6), []
    for _ in range(20):
        figure = Figure(figsize=(4, 4), dpi=80)
        for axes in figure.subplots(*generator.integers(1, 4, 2), squeeze=False).ravel():
            if generator.random() < 0.5:
                axes.plot(x := np.linspace(0, 1, 30), x ** generator.uniform(0.1, 0.6), label="AUC .93")
                axes.legend(fontsize=6)
            else:
                axes.bar(range(5), generator.uniform(size=5))
            axes.set_title("test set", fontsize=8)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        sheet = Image.fromarray(np.array(canvas.buffer_rgba())[..., :3]).convert("L")
        sheets.append(np.array(sheet.resize((SIZE, SIZE), Image.Resampling.BILINEAR)))
    return np.stack(sheets)[..., None]


FOREIGN = {
    "sheet of plots": lambda new: plots(),
    "photograph": lambda new: photos(),
    "noise": lambda new: np.random.default_rng(4).integers(0, 256, new.shape, dtype=np.uint8),
    "faint noise": lambda new: np.random.default_rng(5).normal(110, 15, new.shape).astype(np.uint8),
    "inverted": lambda new: 255 - new,
    "turned by 90": lambda new: np.rot90(new, axes=(1, 2)),
    "turned by 180": lambda new: np.rot90(new, 2, axes=(1, 2)),
    "turned by 270": lambda new: np.rot90(new, 3, axes=(1, 2)),
    "blank": lambda new: np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, SIZE, SIZE, 1)),
    "handwritten digit": lambda new: digits(),
}
