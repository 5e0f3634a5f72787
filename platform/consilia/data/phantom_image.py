"""Draws chest-like radiographs: an anatomy, at most one finding, and the scanner that took the image.

Every image gets the same amount of added opacity, drawn without regard to its class: a finding is a
shape that takes a part of it, and the rest is smooth haze. So the class shows in shape, not in brightness.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float64]  # (size, size), 0 is black and 1 is white

CLASSES = ("clear", "consolidation", "nodule")


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """What a patient keeps from image to image; lengths are fractions of the image's side."""

    body_width: float
    lung_width: float  # half-axes of each lung
    lung_height: float
    lung_gap: float  # from the middle to a lung's centre
    lung_top: float  # centre of the lungs from the upper edge
    heart: float  # radius
    ribs: float  # number of ribs along the image's height
    rib_phase: float
    rib_contrast: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """How a device turns opacity into grey."""

    gain: float
    gamma: float
    blur: float  # standard deviation, fraction of the side
    noise: float  # standard deviation
    marker: tuple[float, float]  # centre (x, y) of the bright block in a corner


SCANNERS = {
    "A": Scanner(gain=1.0, gamma=1.0, blur=0.004, noise=0.020, marker=(0.08, 0.07)),
    "B": Scanner(gain=0.88, gamma=0.8, blur=0.008, noise=0.012, marker=(0.92, 0.07)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """Where a finding lies, as fractions of the side."""

    x: float
    y: float
    radius: float


def draw_anatomy(generator: np.random.Generator) -> Anatomy:
    """Draw one patient's build."""
    uniform = generator.uniform
    return Anatomy(
        body_width=uniform(0.42, 0.48),
        lung_width=uniform(0.145, 0.175),
        lung_height=uniform(0.29, 0.34),
        lung_gap=uniform(0.19, 0.215),
        lung_top=uniform(0.45, 0.5),
        heart=uniform(0.11, 0.15),
        ribs=uniform(8.5, 10.5),
        rib_phase=uniform(0, 2 * np.pi),
        rib_contrast=uniform(0.03, 0.06),
    )


def draw_image(
    finding: str, anatomy: Anatomy, scanner: Scanner, *, size: int, generator: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], Lesion | None]:
    """Draw one radiograph.

    Args:
        finding: One of `CLASSES`.
        anatomy: The patient's.
        scanner: The device's.
        size: Side of the image, pixels.
        generator: Source of all that varies from image to image.

    Returns:
        The image (size, size), and where its finding lies; None in a clear one.
    """
    axis = (np.arange(size) + 0.5) / size
    tilt = generator.normal(0, 0.03)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    x = x - 0.5 + tilt * (y - 0.5) + generator.normal(0, 0.012)  # from the middle of the body, to the right
    y = y + generator.normal(0, 0.012)
    lungs = _lungs(x, y, anatomy)
    image = _thorax(x, y, lungs, anatomy)
    opacity, lesion = _opacity(finding, x, y, lungs, anatomy, generator)
    image = image + opacity + lungs * _vessels(x, y, anatomy, generator)
    if lesion is not None:
        row, column = np.unravel_index(np.argmin((x - lesion.x) ** 2 + (y - lesion.y) ** 2), x.shape)
        lesion = Lesion(x=float(axis[column]), y=float(axis[row]), radius=lesion.radius)
    return _expose(image, scanner, generator), lesion


def _soft(distance: Plane, width: float) -> Plane:
    """1 inside (negative distance), 0 outside, over an edge of about `width`."""
    return 1 / (1 + np.exp(np.clip(distance / width, -50, 50)))


def _lungs(x: Plane, y: Plane, a: Anatomy) -> Plane:
    """Both lung fields, 0 ... 1; narrower towards the apex, cut by the diaphragm, notched by the heart."""
    narrowing = 1 - 0.35 * np.clip((a.lung_top - y) / a.lung_height, 0, 1)
    radius = np.hypot((np.abs(x) - a.lung_gap) / (a.lung_width * narrowing), (y - a.lung_top) / a.lung_height)
    field = _soft((radius - 1) * a.lung_width, 0.012)
    diaphragm = a.lung_top + 0.75 * a.lung_height + 0.5 * (np.abs(x) - a.lung_gap) ** 2
    heart = np.hypot(x - 0.06, (y - a.lung_top - 0.14) / 1.2)
    return field * _soft(y - diaphragm, 0.015) * (1 - _soft(heart - a.heart, 0.012))


def _thorax(x: Plane, y: Plane, lungs: Plane, a: Anatomy) -> Plane:
    shoulder = np.clip((0.2 - y) / 0.2, 0, 1)
    body = _soft(np.abs(x) - a.body_width * (1 - 0.5 * shoulder**2), 0.01)
    spine = np.exp(-((x / 0.045) ** 2)) * (0.12 + 0.02 * np.cos(2 * np.pi * 16 * y))
    rib_lines = np.cos(2 * np.pi * a.ribs * (y + 0.9 * (np.abs(x) - 0.12) ** 2) + a.rib_phase)
    ribs = a.rib_contrast * np.clip(rib_lines, -0.2, 1) * _soft(np.abs(x) - 0.37, 0.02)
    return 0.04 + body * (0.5 - 0.3 * lungs + spine + ribs)


def _opacity(
    finding: str, x: Plane, y: Plane, lungs: Plane, a: Anatomy, generator: np.random.Generator
) -> tuple[Plane, Lesion | None]:
    """What is added to the lungs: as much for every class, haze and finding together."""
    total = generator.uniform(0.009, 0.013)  # mean over the image of all that is added
    added = np.zeros_like(x)
    lesion = None
    if finding != "clear":
        lesion = _place(finding, a, generator)
        added = lungs * _finding(finding, x, y, lesion, generator)
        added = added * min(1.0, 0.9 * total / float(added.mean()))
    haze = np.zeros_like(x)
    for _ in range(2):
        spot = _place("haze", a, generator)
        haze += generator.uniform(0.5, 1) * np.exp(-0.5 * ((x - spot.x) ** 2 + (y - spot.y) ** 2) / spot.radius**2)
    haze = haze * lungs
    return added + haze * (total - float(added.mean())) / float(haze.mean()), lesion


# The smaller a thing is, the wider it scatters, so that the average image of every class is the same.
_RADII = {"nodule": (0.06, 0.095), "consolidation": (0.11, 0.17), "haze": (0.06, 0.11)}
_REACH = {"nodule": 0.75, "consolidation": 0.55, "haze": 0.6}  # from a lung's centre, 1 being its rim


def _place(what: str, a: Anatomy, generator: np.random.Generator) -> Lesion:
    """Choose a place inside one of the lungs."""
    side = generator.choice([-1.0, 1.0])
    angle, reach = generator.uniform(0, 2 * np.pi), _REACH[what] * np.sqrt(generator.uniform(0, 1))
    return Lesion(
        x=side * (a.lung_gap + 0.01 + reach * a.lung_width * np.cos(angle)),
        y=a.lung_top - 0.03 + reach * a.lung_height * np.sin(angle),
        radius=generator.uniform(*_RADII[what]),
    )


def _finding(finding: str, x: Plane, y: Plane, lesion: Lesion, generator: np.random.Generator) -> Plane:
    distance = np.hypot(x - lesion.x, y - lesion.y) - lesion.radius
    if finding == "nodule":
        return generator.uniform(0.22, 0.5) * _soft(distance, 0.006)
    mottling = 1 + 0.9 * _field(x.shape[0], 0.016, generator)
    return generator.uniform(0.08, 0.24) * np.clip(mottling, 0, 3) * _soft(distance, 0.03)


def _vessels(x: Plane, y: Plane, a: Anatomy, generator: np.random.Generator) -> Plane:
    """Thin bright lines that fan out from both hila, so that a clear lung has fine structure too."""
    added = np.zeros_like(x)
    for side in (-1.0, 1.0):
        for angle in generator.uniform(-1.2, 1.2, size=4):
            along = (x * side - 0.1) * np.cos(angle) + (y - a.lung_top) * np.sin(angle)
            across = (y - a.lung_top) * np.cos(angle) - (x * side - 0.1) * np.sin(angle)
            fades = np.exp(-np.clip(along, 0, None) / 0.15) * (along > 0) * (x * side > 0)
            added += generator.uniform(0.05, 0.12) * fades * np.exp(-((across / 0.01) ** 2))
    return added


def _expose(image: Plane, scanner: Scanner, generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    size = image.shape[0]
    drift = 0.02 * _field(size, 0.25, generator)
    image = _blur(image + drift, scanner.blur)
    image = np.clip(image * scanner.gain * generator.uniform(0.93, 1.07), 0, 1) ** scanner.gamma
    image = image + generator.normal(0, scanner.noise, image.shape)
    axis = (np.arange(size) + 0.5) / size
    column, row = (np.abs(axis - centre) < 0.03 for centre in scanner.marker)
    image[np.ix_(row, column)] = 0.8
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _field(size: int, grain: float, generator: np.random.Generator) -> Plane:
    """Smooth noise of mean 0 and standard deviation 1, with spots of about `grain` of the side."""
    field = _blur(generator.normal(size=(size, size)), grain)
    normal: Plane = (field - field.mean()) / field.std()
    return normal


def _blur(image: Plane, sigma: float) -> Plane:
    """Gaussian blur, `sigma` a fraction of the side; periodic, which the black rim hides."""
    size = image.shape[0]
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    transfer = np.exp(-2 * (np.pi * sigma * size) ** 2 * (rows**2 + columns**2))
    return np.fft.irfft2(np.fft.rfft2(image) * transfer, s=image.shape)
