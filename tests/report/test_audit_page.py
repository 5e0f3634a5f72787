"""The page of an audit: every suspect with its pictures, nothing from the network, nothing unescaped."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from audit_stores import alternating, four_to_one, make_audit_store, noise
from consilia.audit.document import Audit
from consilia.audit.run import audit
from consilia.data.sources.listing import Quarantined
from consilia.data.store.image_store import ImageStore
from consilia.report.audit_page import render_page, thumbnail
from data_tables import card_of

NASTY = "<script>alert('x')</script>&\".png"


@pytest.fixture(scope="module")
def store() -> ImageStore:
    pixels = noise(60, size=24)
    pixels[2], pixels[13], pixels[24] = pixels[0], pixels[8], pixels[26]
    files = [f"{row:04d}.png" for row in range(60)]
    files[2] = NASTY
    return make_audit_store(
        alternating(60),
        pixels=pixels,
        files=files,
        patients=[f"p{row}" for row in range(58)] + ["<b>p</b>"] * 2,
        splits=four_to_one(60),
        classes=("benign", "<i>bad</i>"),
        columns={"meta_<u>site</u>": ["<s>A</s>", "<s>B</s>"] * 30},
        quarantine=(Quarantined(file="<em>f</em>.png", reason="<strong>why</strong>"),),
    )


@pytest.fixture(scope="module")
def found(store) -> Audit:
    return audit(store, card_of(None))


def sources(page: str) -> list[str]:
    return re.findall(r'src="([^"]*)"', page)


def test_what_comes_from_the_data_is_escaped(store, found):
    page = render_page(found, store)
    assert "&lt;script&gt;alert(" in page
    for tag in ("script", "em", "strong", "i", "u", "s"):
        assert f"<{tag}>" not in page
    assert "<b>p</b>" not in page


def test_the_page_needs_no_network_and_runs_nothing(store, found):
    page = render_page(found, store)
    assert not re.search(r"https?:|url\(|@import|<link|<script|<iframe|\son[a-z]+=", page)
    assert all(source.startswith("data:image/png;base64,") for source in sources(page))
    assert "default-src 'none'" in page


def test_every_suspect_is_shown_with_its_own_picture(store, found):
    page = render_page(found, store)
    shown = [image.image_id for case in found.duplicates.cases for image in case.images]
    assert len(sources(page)) == len(shown) == 6
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(sources(page)[0].partition(",")[2]))))
    np.testing.assert_array_equal(decoded, store.pixels[found.duplicates.cases[0].images[0].image_id][:, :, 0])
    assert "reaches the test split" in page
    assert "labels differ" in page


def test_findings_stand_above_everything_else(store, found):
    page = render_page(found, store)
    assert page.index(found.findings[0].topic == "leak" and "across the test split") < page.index("<table>")


def test_near_duplicates_are_described_as_they_are_found(store, found):
    assert "16 x 16 grey means" in render_page(found, store)
    assert "perceptual hash" not in render_page(found, store)


def test_pictures_beyond_the_most_are_counted(store, found):
    page = render_page(found, store, most_cases=1)
    assert len(sources(page)) == 2
    hidden = [int(number) for number in re.findall(r"(\d+) of them are not shown", page)]
    assert sum(hidden) == len(found.duplicates.cases) - 1


@pytest.mark.parametrize(("size", "channels", "mode"), [(300, 1, "L"), (20, 3, "RGB"), (20, 2, "L")])
def test_thumbnails_are_small_and_keep_colour(size, channels, mode):
    uri = thumbnail(noise(1, size=size, channels=channels)[0])
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert (image.mode, image.size) == (mode, (min(size, 128),) * 2)
