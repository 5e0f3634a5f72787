"""Makes the pictures of the README from the demo, whose images are phantoms: `python docs/make_pictures.py`.

`make demo` comes first. The report is photographed by a Chromium without a window, which must be installed.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

import consilia

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WINDOW = (1240, 1080)  # pixels
WIDTH = 880  # of the picture of the report, pixels
MOST_BYTES = 150_000


def main() -> None:
    """Make both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=ROOT / "demo", help="what `make demo` has left")
    parser.add_argument("--image", type=Path, default=ROOT / "data" / "samples" / "p0002-1.png", help="to be predicted")
    arguments = parser.parse_args()
    study = arguments.demo / "studies" / "phantoms"
    if not (study / "report.html").is_file():
        sys.exit(f"There must be a finished demo, but {study / 'report.html'} does not exist. Run `make demo` first.")
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save(photograph(study / "report.html", Path(folder)), PICTURES / "report.png")
        heat_map = explain(study / "ensembles" / "greedy_calibrated", arguments.image, Path(folder))
        save(heat_map, PICTURES / "prediction.png")


def photograph(page: Path, folder: Path) -> Image.Image:
    """Return the part of a report that tells its result."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"A browser must be installed to photograph the report: one of {', '.join(BROWSERS)}.")
    text = page.read_text(encoding="utf-8")
    start, end = text.index('<h2 id="asked">'), text.index('<h2 id="result">')
    part, target = folder / "page.html", folder / "page.png"
    part.write_text(text[:start] + text[end:], encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--no-first-run", "--hide-scrollbars", f"--user-data-dir={folder / 'browser'}"]
    command += [f"--window-size={WINDOW[0]},{WINDOW[1]}", f"--screenshot={target}", part.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if not target.is_file():
        sys.exit(f"{browser} made no picture of {page}:\n{done.stderr}")
    picture = Image.open(target).convert("RGB")
    return picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)


def explain(bundle: Path, image: Path, folder: Path) -> Image.Image:
    """Return an image beside itself under the heat map of what the ensemble calls it."""
    maps = folder / "maps"
    consilia.write_explanations(consilia.load(bundle, device="cpu", precision="float32"), [image], maps)
    (overlay,) = maps.glob("*.png")
    return Image.open(overlay).convert("RGB")


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG, with 256 colours where it would be too large with all of them."""
    picture.save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        sys.exit(f"{path} must have at most {MOST_BYTES:,} bytes, but has {path.stat().st_size:,}: make it smaller.")
    print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
