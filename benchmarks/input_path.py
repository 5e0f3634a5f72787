"""Does the input keep the device busy? Images per second of training steps with the same network, in one run.

limit        consilia's step without augmentation, on one batch that is on the device: nothing can be faster
consilia     images of a prepared store through memory map or device store, and its step with augmentation
torchvision  what a script does: ImageFolder, DataLoader with its best number of workers, transforms.v2, a plain step

The files are decoded once before the training (consilia) or at each step (torchvision): `stored` are PNG files of 320
pixels, `large` JPEG files of 1024, as exports of a hospital's archive are. All are in the page cache, and batches in a
queue are used up before the clock starts; both favour torchvision. Each side may use the same cores, the workers of a
DataLoader included: without a GPU one core, which is a trial's share of a search, and with a GPU all. Augmentation's
share is the time of drawing, warping and normalising a batch over that of the step. On a GPU steps run in bf16, and
consilia's are captured.

    python benchmarks/input_path.py [--quick] [--data DIR]
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from consilia.config.card import DataCard, FolderSource
from consilia.config.network import ModelSpec
from consilia.config.space import Architecture
from consilia.data.store.image_store import ImageStore
from consilia.data.store.prepare import prepare
from consilia.train.batches import DeviceImages, Images, MappedImages, open_images
from consilia.train.device import MEMORY_FORMAT, autocast, resolve_device, set_threads
from consilia.train.networks.factory import build_model
from consilia.train.warp import Warps, draw_warps, training_input
from shared.figures import print_figures
from shared.steps import MEAN, POLICY, STD, STRENGTH, Network, Training, wait_for

T = TypeVar("T")

QUEUE = 2  # batches that a DataLoader's worker holds ready: its default
SIDES = {"stored": 320, "large": 1024}  # longer side of the files, pixels


@dataclass(frozen=True)
class Case:
    """One comparison."""

    data: str
    side: int  # of the network's input, pixels
    architecture: str
    batch_size: int


@dataclass
class Figures:
    """What was measured of a case; speeds in images per second, one per round."""

    case: Case
    speeds: dict[str, list[float]] = field(default_factory=dict)
    workers_tried: dict[int, float] = field(default_factory=dict)
    warp_seconds: float = 0.0
    step_seconds: float = 0.0

    def ratio(self, one: str, other: str) -> float:
        """Return the median over the rounds, each of which measured both."""
        return statistics.median(a / b for a, b in zip(self.speeds[one], self.speeds[other], strict=True))


GPU_CASES = (
    *(Case(data, side, "resnet18", 64) for data in SIDES for side in (224, 64)),
    *(Case("stored", 224, name, 64) for name in ("densenet121", "efficientnet_b0")),
    Case("stored", 64, "test_resnet", 64),
)
CPU_CASES = (
    *(Case(data, 64, "test_resnet", 32) for data in SIDES),
    *(Case(data, 64, "resnet18", 16) for data in SIDES),
    *(Case(data, 224, "resnet18", 8) for data in SIDES),
)
QUICK = {
    "cuda": (GPU_CASES[0], GPU_CASES[1], GPU_CASES[-1]),
    "cpu": (*CPU_CASES[:2], Case("stored", 224, "resnet18", 4)),
}
STEPS = {"cuda": (40, 100), "cpu": (3, 6)}  # that a round times of each side: quick, else


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer cases and steps; ends within two minutes")
    parser.add_argument("--data", type=Path, help="a folder with cxr-views/images/*.png; without it, images are drawn")
    parser.add_argument("--cases", type=int, help="only the first so many")
    parser.add_argument("--images", type=int, help="files of each kind")
    parser.add_argument("--steps", type=int, help="that a round times of each side")
    parser.add_argument("--rounds", type=int, help="of all sides, in turn")
    parser.add_argument("--cores", type=int, help="that a side may use; default: one without a GPU, all with one")
    arguments = parser.parse_args()
    device = resolve_device("auto")
    cores = take_cores(arguments.cores or (1 if device.type == "cpu" else None))
    set_threads(cores)
    cases = QUICK[device.type] if arguments.quick else GPU_CASES if device.type == "cuda" else CPU_CASES
    n_steps = arguments.steps or STEPS[device.type][0 if arguments.quick else 1]
    n_rounds = arguments.rounds or (2 if arguments.quick else 3)
    with tempfile.TemporaryDirectory() as place:
        files = Files(Path(place), arguments.data, arguments.images or (48 if arguments.quick else 400))
        measured = [measure(case, files, device, cores, n_steps, n_rounds) for case in cases[: arguments.cases]]
    report(measured, device, cores, n_steps, n_rounds)


def take_cores(count: int | None) -> int:
    """Restrict this process and its children to `count` cores, None: all that it may use; return their number."""
    if not hasattr(os, "sched_setaffinity"):
        return count or os.cpu_count() or 1
    cores = sorted(os.sched_getaffinity(0))[:count]
    os.sched_setaffinity(0, cores)
    return len(cores)


class Files:
    """The images on disk, written once, and their stores, prepared once."""

    def __init__(self, root: Path, data: Path | None, n_images: int) -> None:
        self._root = root
        self._sources = sorted((data / "cxr-views" / "images").glob("*.png")) if data else []
        self._n_images = n_images

    def folder(self, kind: str) -> Path:
        """Return a folder of two classes, as ImageFolder and consilia's folder source read it."""
        folder = self._root / kind
        if not folder.exists():
            suffix = {"stored": "png", "large": "jpg"}[kind]
            for number in range(self._n_images):
                path = folder / "ab"[number % 2] / f"{number:05d}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                self._draw(number, SIDES[kind]).save(path, quality=90)
        return folder

    def store(self, kind: str, side: int) -> ImageStore:
        """Return the files of a kind at the network's side."""
        card = DataCard(
            name=f"{kind}-{side}", path=str(self.folder(kind)), source=FolderSource(), group="none", size=side
        )
        return prepare(card, root=self._root / "stores")

    def _draw(self, number: int, side: int) -> Image.Image:
        """Return a radiograph, or something as smooth, at this size, with the noise of a detector."""
        rng = np.random.default_rng(number)
        if self._sources:
            image = Image.open(self._sources[number % len(self._sources)]).convert("L")
        else:
            image = Image.fromarray(rng.integers(0, 256, (12, 10), dtype=np.uint8))
        scale = side / max(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        noisy = np.asarray(image) + rng.normal(0, 3, (image.height, image.width))
        return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


class PlainStep:
    """The step of a script: no augmentation, no average; kernel by kernel."""

    def __init__(self, case: Case, device: torch.device) -> None:
        torch.manual_seed(0)
        spec = ModelSpec(architecture=Architecture(timm=case.architecture), n_classes=2, channels=1)
        self._device = device
        self._model = build_model(spec).to(device)
        self._model.to(memory_format=MEMORY_FORMAT).train()
        self._optimiser = torch.optim.AdamW(self._model.parameters(), lr=1e-4, fused=True)
        self._labels = torch.arange(case.batch_size, device=device) % 2

    def __call__(self, inputs: torch.Tensor) -> None:
        """Train on float32 (b, 1, side, side)."""
        with autocast(self._device, "auto"):
            logits = self._model(inputs.contiguous(memory_format=MEMORY_FORMAT))
        loss = F.cross_entropy(logits.float(), self._labels)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call] # torch ships it untyped
        self._optimiser.step()


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds until the device has done the work."""
    wait_for(device)
    started = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - started


def measure(case: Case, files: Files, device: torch.device, cores: int, n_steps: int, n_rounds: int) -> Figures:
    """Measure all sides of a case in turn."""
    figures = Figures(case)
    network = Network(case.architecture, case.side, case.batch_size)
    bare, augmented = (Training(network, device, capture=True) for _ in range(2))  # a capture knows one kind of batch
    plain = PlainStep(case, device)
    store, folder = files.store(case.data, case.side), files.folder(case.data)
    chosen = open_images(store, device)
    ways: dict[str, Images] = {"consilia": chosen}
    if isinstance(chosen, DeviceImages):
        ways["consilia, mapped"] = MappedImages(store.pixels, device)
    ready, _ = bare.draw(case.batch_size)

    def turn(source: Generator[T], step: Callable[[T], object], n_warm: int, n: int) -> float:
        with closing(source):
            for _ in range(n_warm):
                step(next(source))
            return n * case.batch_size / timed(lambda: [step(next(source)) for _ in range(n)], device)

    def limit(n: int) -> float:
        return turn(((ready, None) for _ in range(n + 3)), lambda taken: bare.step(*taken), 3, n)

    def ours(images: Images, n: int) -> float:
        batches = consilia_batches(case, store, images, device, n + 3)
        return turn(batches, lambda taken: augmented.step(*taken), 3, n)

    def loader(n_workers: int, n: int) -> float:
        n_warm = 1 + QUEUE * n_workers
        return turn(torchvision_batches(case, folder, device, n_workers, n_warm + n), plain, n_warm, n)

    limit(1)
    figures.workers_tried = {n: loader(n, max(1, n_steps // 4)) for n in (0, 1, 2, 4, 8, 16) if n <= cores}
    best = max(figures.workers_tried, key=lambda n: figures.workers_tried[n])
    for _ in range(n_rounds):
        sides = {"limit": limit(n_steps)}
        for name, images in ways.items():
            sides[name] = ours(images, n_steps)
        sides["torchvision"] = loader(best, n_steps)
        for name, speed in sides.items():
            figures.speeds.setdefault(name, []).append(speed)
    figures.step_seconds = case.batch_size / statistics.median(figures.speeds["limit"])
    figures.warp_seconds = time_warp(case, device, n_steps)
    return figures


def consilia_batches(
    case: Case, store: ImageStore, images: Images, device: torch.device, n_batches: int
) -> Generator[tuple[torch.Tensor, Warps]]:
    """Yield what consilia's training loop gives to its step."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, len(store), case.batch_size) for _ in range(n_batches)]
    warps = draw_warps(rng, n_batches * case.batch_size, policy=POLICY, strength=STRENGTH).to(device)
    with closing(images.batches(rows)) as batches:
        for number, batch in enumerate(batches):
            yield batch, warps[number * case.batch_size : (number + 1) * case.batch_size]


def torchvision_batches(
    case: Case, folder: Path, device: torch.device, n_workers: int, n_batches: int
) -> Generator[torch.Tensor]:
    """Yield what the documented classes of torch and torchvision give to the network."""
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((case.side, case.side), antialias=True),
            v2.RandomAffine(
                degrees=POLICY.rotate_degrees * STRENGTH,
                translate=(POLICY.translate * STRENGTH,) * 2,
                scale=(1 - POLICY.scale * STRENGTH, 1 + POLICY.scale * STRENGTH),
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            v2.ColorJitter(brightness=POLICY.brightness * STRENGTH, contrast=POLICY.contrast * STRENGTH),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([MEAN], [STD]),
        ]
    )
    dataset = ImageFolder(str(folder), transform=transform, loader=load_grey)
    loader = DataLoader(
        dataset,
        batch_size=case.batch_size,
        sampler=RandomSampler(dataset, replacement=True, num_samples=n_batches * case.batch_size),
        num_workers=n_workers,
        pin_memory=device.type == "cuda",
    )
    for images, _ in loader:
        yield images.to(device, non_blocking=True)


def load_grey(path: str) -> Image.Image:
    """Read one channel: ImageFolder's own loader makes three, which would cost it more."""
    with Image.open(path) as image:
        return image.convert("L")


def time_warp(case: Case, device: torch.device, n: int) -> float:
    """Return the seconds that a batch's augmentation takes: draws, warp, normalisation."""
    rng, recipe = np.random.default_rng(0), Network(case.architecture, case.side, case.batch_size).preprocessing
    shape = (case.batch_size, case.side, case.side, 1)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)

    def augment() -> None:
        warps = draw_warps(rng, case.batch_size, policy=POLICY, strength=STRENGTH).to(device)
        training_input(images, warps, recipe)

    augment()
    return statistics.median(timed(augment, device) for _ in range(max(n, 20)))


def report(measured: list[Figures], device: torch.device, cores: int, n_steps: int, n_rounds: int) -> None:
    rows, cases = [], []
    for each in measured:
        medians = {name: statistics.median(speeds) for name, speeds in each.speeds.items()}
        best = max(each.workers_tried, key=lambda n: each.workers_tried[n])
        b_a, b_c = each.ratio("consilia", "limit"), each.ratio("consilia", "torchvision")
        share = each.warp_seconds / each.step_seconds
        case = each.case
        title = f"{case.data}, {case.architecture} {case.side} px, batch {case.batch_size}"
        mapped = [f"{medians[name]:,.0f}" for name in ("consilia, mapped",) if name in medians]
        speeds = [f"{medians['limit']:,.0f}", "/".join([f"{medians['consilia']:,.0f}", *mapped])]
        speeds.append(f"{medians['torchvision']:,.0f} ({best})")
        rows.append([title, *speeds, f"{b_a:.2f}", f"{b_c:.2f}", f"{share:.1%}"])
        cases.append(
            {
                **asdict(case),
                "images_per_second": medians,
                "b_over_a": b_a,
                "b_over_c": b_c,
                "augmentation_share": share,
                "workers": best,
                "workers_tried": each.workers_tried,
            }
        )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print_figures(
        f"Images per second of training on {name}, {cores} cores. b: where two, from the device and the memory map."
        " c: with (workers). Goals: b/a 0.95 for ResNet-18 at 224 px, b/c 2 for large files, warp 5 % of the step.",
        ["files, network", "a: limit", "b: consilia", "c: torchvision", "b/a", "b/c", "warp"],
        rows,
        {"device": name, "cores": cores, "steps": n_steps, "rounds": n_rounds, "cases": cases},
    )


if __name__ == "__main__":
    main()
