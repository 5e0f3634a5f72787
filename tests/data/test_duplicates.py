"""Copies are found however they were saved again, other pictures are not, and a crowd of copies costs no square."""

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from consilia.config.reading import Reading
from consilia.data.decode.low_resolution import perceptual_hash
from consilia.data.duplicates import LIMIT, LIMIT_SMALL, SMALL, find_duplicates, find_near, signature
from consilia.data.raster import fit_image
from consilia.data.store.prepare import prepare
from data_tables import row, shipped_card


def smooth(seed: int, *, size: int = 96) -> np.ndarray:
    """A picture of random blobs, (size, size)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def as_jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(buffer)


def halved(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2)).resize(image.size)


def brighter(factor: float):
    return lambda image: Image.fromarray(np.clip(np.asarray(image) * factor, 0, 255).astype(np.uint8))


def cropped(image: Image.Image) -> Image.Image:
    x, y = round(image.width / 100), round(image.height / 100)
    return image.crop((x, y, image.width - x, image.height - y))


def labelled(image: Image.Image) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).text((3, 3), "L 12.3.20", fill=255)
    return image


CHANGES = {
    "jpeg": as_jpeg,
    "halved": halved,
    "brighter": brighter(1.1),
    "darker": brighter(0.9),
    "cropped": cropped,
    "labelled": labelled,
}


def pairs_of(pictures: np.ndarray) -> set[tuple[int, int]]:
    hashes = np.array([perceptual_hash(picture) for picture in pictures], dtype=np.uint64)
    found, differences = find_near(pictures, hashes, np.arange(len(pictures)))
    assert ((differences >= 0) & (differences <= LIMIT)).all()
    assert (found[:, 0] < found[:, 1]).all()
    return {(int(one), int(two)) for one, two in found}


def stored(image: Image.Image, size: int) -> np.ndarray:
    return fit_image(np.asarray(image), Reading(size=size, channels=1), name="picture")


@pytest.mark.parametrize("change", [name for name in CHANGES if name != "labelled"])  # text hides much of 32 pixels
def test_a_picture_that_was_saved_again_is_found_among_two_hundred_and_no_other(change):
    pictures = [Image.fromarray(smooth(seed)) for seed in range(200)]
    copies = [CHANGES[change](pictures[number]) for number in range(0, 200, 20)]
    found = pairs_of(np.stack([stored(each, 64) for each in [*pictures, *copies]]))
    assert found == {(20 * number, 200 + number) for number in range(10)}


def test_equal_pixels_are_exact_and_the_first_of_them_stands_for_the_others(make_store):
    rows = [row(number, "ab"[number % 2], str(number)) for number in range(8)]
    shown = smooth(100)
    store = make_store(rows, size=32, pictures={0: shown, 3: shown, 5: shown, 6: shown // 2 + 60})
    found = find_duplicates(store)
    assert [(pair.first, pair.second, pair.kind) for pair in found] == [
        (0, 3, "exact"),
        (0, 5, "exact"),
        (0, 6, "near"),
    ]
    assert found[0].difference == 0.0
    assert 0 < found[2].difference < 0.01
    assert find_duplicates(store) == found


@pytest.mark.parametrize("kind", ["black", "nearly black", "white", "dot"])
def test_pictures_that_show_nothing_are_nobody_s_duplicates(kind):
    generator = np.random.default_rng(0)
    pictures = np.zeros((300, 32, 32, 1), np.uint8) + (255 if kind == "white" else 0)
    if kind == "nearly black":
        pictures += generator.integers(0, 3, pictures.shape, dtype=np.uint8)
    if kind == "dot":  # what is left within the border is too small to compare
        pictures[:, 4:9, 4:9] = generator.integers(100, 200, (300, 5, 5, 1), dtype=np.uint8)
    assert pairs_of(pictures) == set()


def test_a_dark_border_does_not_make_pictures_alike():
    pictures = np.zeros((60, 96, 96, 1), np.uint8)
    for number in range(60):
        pictures[number, 36:60, :, 0] = smooth(number)[:24] // 2 + 60
    assert pairs_of(pictures) == set()


def test_a_crowd_of_copies_is_connected_by_few_pairs():
    generator = np.random.default_rng(3)
    noise = generator.normal(0, 3, (1500, 32, 32))
    pictures = np.clip(smooth(7, size=32) * 0.8 + 20 + noise, 0, 255).astype(np.uint8)[..., None]
    found = pairs_of(pictures)
    assert len(found) <= 4 * 1500
    reached, edge = {0}, {0}
    neighbours: dict[int, set[int]] = {}
    for one, two in found:
        neighbours.setdefault(one, set()).add(two)
        neighbours.setdefault(two, set()).add(one)
    while edge:
        edge = set().union(*(neighbours[each] for each in edge)) - reached
        reached |= edge
    assert len(reached) == 1500


def test_pairs_do_not_depend_on_the_order_of_the_pictures():
    pictures = np.stack([stored(Image.fromarray(smooth(seed // 2)), 64) for seed in range(120)])
    pictures[1::2] = pictures[1::2] // 2 + 40
    order = np.random.default_rng(0).permutation(120)
    moved = {tuple(sorted((order[one], order[two]))) for one, two in pairs_of(pictures[order])}
    assert moved == pairs_of(pictures) == {(2 * number, 2 * number + 1) for number in range(60)}


def test_of_pneumoniamnist_27_pictures_stand_there_twice_or_more_and_8_of_them_in_train_and_val(real_data, tmp_path):
    card = shipped_card("pneumoniamnist", path=str(real_data / "pneumoniamnist_28.npz"))
    store = prepare(card, root=tmp_path)
    found = find_duplicates(store)
    assert {pair.kind for pair in found} == {"exact"}  # children's chests look alike: near duplicates would be wrong
    splits = store.index["split"].to_numpy()
    groups: dict[int, set[str]] = {}
    for pair in found:
        groups.setdefault(pair.first, {splits[pair.first]}).add(splits[pair.second])
    assert len(groups) == 27
    assert Counter(frozenset(parts) for parts in groups.values() if len(parts) > 1) == {frozenset({"train", "val"}): 8}


def test_cxr_views_holds_four_pictures_under_two_patients(real_data: Path, tmp_path: Path):
    store = prepare(shipped_card("cxr_views", path=str(real_data / "cxr-views")), root=tmp_path)
    found = [pair for pair in find_duplicates(store) if store.patients[pair.first] != store.patients[pair.second]]
    assert {(store.patients[pair.first], store.patients[pair.second]) for pair in found} == {("178", "97")}
    assert len(found) == 4  # looked at: the same radiographs from two sources
    assert max(pair.difference for pair in found) < 0.001


LEAST_FOUND = {224: {"cropped": 0.95}, 64: {"cropped": 0.8, "labelled": 0.95}, 28: {"cropped": 0.88, "labelled": 0.95}}


@pytest.mark.parametrize("size", [224, 64, 28])
def test_radiographs_that_were_saved_again_are_found(real_data: Path, size):
    files = sorted((real_data / "cxr-views" / "images").iterdir())[::4]
    images = [Image.open(file).convert("L") for file in files]
    before = np.stack([signature(stored(image, size)) for image in images])
    for name, change in CHANGES.items():
        after = np.stack([signature(stored(change(image), size)) for image in images])
        found = 1 - (before * after).sum(axis=1) <= (LIMIT if size >= SMALL else LIMIT_SMALL)
        assert found.mean() >= LEAST_FOUND[size].get(name, 0.98), name
