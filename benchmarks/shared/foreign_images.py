"""Images that no classifier of radiographs should answer, drawn here or taken from installed packages."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pydicom
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from sklearn.datasets import load_digits, load_sample_images

Images = npt.NDArray[np.uint8]  # (n, size, size), grey
SIDE = 512  # pixels of a page before it is made as small as the images of a data set
_WORDS = (
    *(
        "the",
        "of",
        "and",
        "a",
        "to",
        "in",
        "is",
        "patient",
        "image",
        "left",
        "right",
        "lung",
        "opacity",
        "table",
        "figure",
    ),
    *("results", "methods", "value", "study", "shows", "no", "signs", "acute", "disease", "report", "model", "groups"),
)


def squares(pictures: Sequence[Image.Image], size: int) -> Images:
    """Return pictures in grey, made square, (n, size, size)."""
    return np.stack(
        [np.asarray(each.convert("L").resize((size, size), Image.Resampling.BILINEAR)) for each in pictures]
    )


def photographs(n: int, generator: np.random.Generator) -> list[Image.Image]:
    """Return crops of a palace, a flower and a portrait."""
    whole = [Image.fromarray(each) for each in load_sample_images().images]
    whole.append(Image.open(Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg"))
    crops = []
    for number in range(n):
        picture = whole[number % len(whole)]
        side = int(generator.integers(150, min(picture.size)))
        x, y = (int(generator.integers(0, length - side + 1)) for length in picture.size)
        crops.append(picture.crop((x, y, x + side, y + side)))
    return crops


def plots(n: int, generator: np.random.Generator) -> list[Image.Image]:
    """Return sheets of ROC curves, bars, scattered points and histograms, one to six axes a sheet."""
    return [_sheet(generator) for _ in range(n)]


def _sheet(generator: np.random.Generator) -> Image.Image:
    rows, columns = (int(each) for each in generator.integers(1, 4, 2))
    figure = Figure(figsize=(SIDE / 100, SIDE / 100), dpi=100)
    for axes in figure.subplots(rows, columns, squeeze=False).ravel():
        kind = generator.integers(0, 4)
        if kind == 0:
            x = np.linspace(0, 1, 40)
            for _ in range(generator.integers(1, 4)):
                axes.plot(x, x ** generator.uniform(0.05, 0.6), label=f"AUC {generator.uniform(0.6, 1):.2f}")
            axes.plot([0, 1], [0, 1], "--", color="grey")
            axes.legend(fontsize=6)
        elif kind == 1:
            axes.bar(range(6), generator.uniform(0, 1, 6))
        elif kind == 2:
            axes.scatter(*generator.normal(size=(2, 60)), s=8)
        else:
            axes.hist(generator.normal(size=200), bins=20)
        axes.set_title(" ".join(generator.choice(_WORDS, 3)), fontsize=8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call] # matplotlib's, as the next
    return Image.fromarray(np.array(canvas.buffer_rgba())[..., :3])  # type: ignore[no-untyped-call]


def pages(n: int, generator: np.random.Generator) -> list[Image.Image]:
    """Return pages of text, dark on white."""
    return [_page(generator) for _ in range(n)]


def _page(generator: np.random.Generator) -> Image.Image:
    picture = Image.new("L", (SIDE, SIDE), int(generator.integers(235, 256)))
    draw, height = ImageDraw.Draw(picture), int(generator.integers(9, 22))
    margin = int(generator.integers(15, 70))
    write(draw, (margin, margin, SIDE - margin, SIDE - margin), height, generator)
    return picture


def screenshots(n: int, generator: np.random.Generator) -> list[Image.Image]:
    """Return windows with a title bar, a list at the left, buttons and text, light or dark."""
    return [_screenshot(generator) for _ in range(n)]


def _screenshot(generator: np.random.Generator) -> Image.Image:
    dark = generator.random() < 0.5
    ground, ink, raised = ((30, 220, 60) if dark else (240, 20, 205)) + generator.integers(-15, 16, 3)
    picture = Image.new("L", (SIDE, SIDE), int(ground))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, SIDE, 28), fill=int(raised))
    bar = int(generator.integers(80, 180))
    draw.rectangle((0, 28, bar, SIDE), fill=int((ground + raised) // 2))
    for row in range(40, SIDE - 30, int(generator.integers(24, 40))):
        write(draw, (8, row, bar - 8, row + 14), 12, generator, ink=int(ink))
    write(draw, (bar + 15, 45, SIDE - 15, int(generator.integers(200, 420))), 14, generator, ink=int(ink))
    for _ in range(generator.integers(2, 7)):
        x, y = int(generator.integers(bar, SIDE - 90)), int(generator.integers(250, SIDE - 30))
        draw.rounded_rectangle((x, y, x + 80, y + 24), 6, fill=int(raised), outline=int(ink))
        write(draw, (x + 8, y + 4, x + 74, y + 18), 12, generator, ink=int(ink))
    return picture


def write(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    height: int,
    generator: np.random.Generator,
    *,
    ink: int = 10,
) -> None:
    """Fill a box, (left, top, right, bottom), with lines of words."""
    font = _font(height)
    for y in range(box[1], max(box[1] + 1, box[3] - height), int(1.35 * height)):
        line = str(generator.choice(_WORDS))
        while draw.textlength(longer := f"{line} {generator.choice(_WORDS)}", font=font) < box[2] - box[0]:
            line = longer
        draw.text((box[0], y), line, fill=ink, font=font)


@cache
def _font(height: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), height)


def noise(n: int, size: int, generator: np.random.Generator) -> Images:
    """Return uniform noise, then noise about a mean grey, then smoothed noise; a third each."""
    uniform = generator.integers(0, 256, (n // 3, size, size))
    about = generator.normal(generator.uniform(60, 190, (n // 3, 1, 1)), 25, (n // 3, size, size))
    fields = generator.normal(size=(n - 2 * (n // 3), size, size))
    smooth = [np.asarray(Image.fromarray(each).filter(ImageFilter.BoxBlur(1))) for each in _bytes(fields * 40 + 128)]
    stretched = [(each - each.min()) / (np.ptp(each) + 1e-9) * 255 for each in np.array(smooth, dtype=np.float64)]
    return _bytes(np.concatenate([uniform, about, stretched]))


def digits(n: int) -> list[Image.Image]:
    """Return handwritten digits, white on black."""
    return [Image.fromarray((each * 15.9).astype(np.uint8)) for each in load_digits().images[:n]]


def slices(folder: Path) -> list[Image.Image]:
    """Return the frames of the DICOM files in a folder that are of other organs, or not radiographs, in full range."""
    found = []
    for path in sorted(folder.glob("*.dcm")):
        try:
            dataset = pydicom.dcmread(path)
            pixels = np.asarray(dataset.pixel_array, dtype=np.float64)
        except Exception:  # the corpus holds files that are broken on purpose
            continue
        if dataset.get("Modality") == "CR":  # chests
            continue
        if dataset.get("SamplesPerPixel", 1) > 1:
            pixels = pixels.mean(axis=-1)
        for frame in pixels.reshape(-1, *pixels.shape[-2:])[:4]:
            low, high = np.percentile(frame, [0.5, 99.5])
            found.append(Image.fromarray(_bytes((frame - low) / max(1, high - low) * 255)))
    return found


def _halves(usual: Images, generator: np.random.Generator) -> Images:
    black = usual.copy()
    for image in black:
        half = np.s_[:, : len(image) // 2] if generator.random() < 0.5 else np.s_[len(image) // 2 :]
        image[half] = 0
    return black


def _overlaid(usual: Images, generator: np.random.Generator) -> Images:
    """Return images with three lines of white text across them, as tall as a twelfth of the image."""
    found, size = [], usual.shape[1]
    for image in usual:
        picture = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        top = int(generator.integers(0, SIDE - 180))
        write(ImageDraw.Draw(picture), (10, top, SIDE - 10, top + 180), SIDE // 12, generator, ink=255)
        found.append(np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)))
    return np.stack(found)


def _blurred(usual: Images, generator: np.random.Generator) -> Images:
    radius = usual.shape[1] / 14
    return np.stack([np.asarray(Image.fromarray(each).filter(ImageFilter.GaussianBlur(radius))) for each in usual])


MANIPULATIONS: dict[str, Callable[[Images, np.random.Generator], Images]] = {
    "inverted": lambda usual, _: 255 - usual,
    "turned by 90": lambda usual, _: np.rot90(usual, axes=(1, 2)),
    "turned by 180": lambda usual, _: np.rot90(usual, 2, axes=(1, 2)),
    "mirrored": lambda usual, _: usual[:, :, ::-1],
    "heavily blurred": _blurred,
    "half black": _halves,
    "text across": _overlaid,
}


def _bytes(values: npt.NDArray[np.floating]) -> Images:
    result: Images = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return result
