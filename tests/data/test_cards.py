"""The shipped cards and samples say what they should, and the real data is what its publishers say."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from consilia.config.reading import Reading
from consilia.data.decode.reader import read_image
from consilia.data.folds import check_no_leak, make_folds
from consilia.data.sources.card import list_images
from consilia.data.store.prepare import prepare
from consilia.errors import DataError
from data_tables import CONTENT, shipped_card
from series_files import write_series

# As MedMNIST v2's INFO (medmnist 3.0.2) has them: classes, channels; the licence; and what is augmented as what.
MEDMNIST = {
    "pathmnist": (9, 3, "histology", "CC BY 4.0"),
    "chestmnist": (2, 1, "xray", "CC BY 4.0"),  # 14 findings, of which any
    "dermamnist": (7, 3, "dermoscopy", "CC BY-NC 4.0"),
    "octmnist": (4, 1, "oct", "CC BY 4.0"),
    "pneumoniamnist": (2, 1, "xray", "CC BY 4.0"),
    "retinamnist": (5, 3, "fundus", "CC BY 4.0"),
    "breastmnist": (2, 1, "ultrasound", "CC BY 4.0"),
    "bloodmnist": (8, 3, "histology", "CC BY 4.0"),
    "tissuemnist": (8, 1, "histology", "CC BY 4.0"),
    "organamnist": (11, 1, "ct", "CC BY 4.0"),
    "organcmnist": (11, 1, "ct", "CC BY 4.0"),
    "organsmnist": (11, 1, "ct", "CC BY 4.0"),
}
CARDS = sorted(path.stem for path in (CONTENT / "cards").glob("*.yaml"))


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_named_like_its_file_and_turns_only_what_has_no_side(name):
    card = shipped_card(name)
    assert card.name == name
    any_way_up = card.modality in ("histology", "dermoscopy")
    assert card.augmentation.flip_horizontal == any_way_up
    assert card.augmentation.flip_vertical == any_way_up
    assert card.augmentation.quarter_turns == any_way_up


@pytest.mark.parametrize("name", MEDMNIST)
def test_an_archive_of_its_shape_is_prepared_with_the_official_classes(name, tmp_path: Path):
    n_classes, channels, modality, licence = MEDMNIST[name]
    card = shipped_card(name, path=str(tmp_path))
    assert (card.modality, card.licence, card.channels) == (modality, licence, channels)
    write_medmnist(tmp_path / f"{name}.npz", n_classes, channels, findings=14 if name == "chestmnist" else None)
    store = prepare(card, root=tmp_path / "stores")
    assert len(store.classes) == n_classes
    assert store.labels.tolist() == [*range(n_classes), *range(n_classes)]
    assert store.pixels.shape == (2 * n_classes, 28, 28, channels)
    assert not store.manifest.has_patients


def test_the_template_for_windows_reads_the_middle_slice_of_a_series_through_each(tmp_path: Path):
    flat = np.full((8, 8), -600)
    uids = [write_series(tmp_path / str(i), [flat - 99, flat, flat + 99], PatientID=f"p{i}") for i in range(4)]
    rows = "".join(f"{uid},{'ab'[i % 2]}\n" for i, uid in enumerate(uids))
    (tmp_path / "labels.csv").write_text("series,label\n" + rows)
    store = prepare(shipped_card("ct_windows", path=str(tmp_path), size=8), root=tmp_path / "stores")
    assert len(store) == 4
    lung, soft, bone = store.pixels[0, 4, 4].tolist()
    assert (lung, soft, bone) == (pytest.approx(127.5, abs=1), 0, 0)
    assert store.patients.tolist() == ["p0", "p1", "p2", "p3"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("phantoms", ["consilia data phantoms DIR", "--set path=DIR", "--set data.path=DIR"]),
        ("pneumoniamnist", ["https://medmnist.com", "pneumoniamnist.npz", "--set path=FILE"]),
        ("cxr_views", ["covid-chestxray-dataset", "metadata.csv", "--set path=DIR"]),
    ],
)
def test_a_card_without_its_data_says_how_to_get_it(name, says):
    with pytest.raises(DataError) as caught:
        list_images(shipped_card(name))
    assert all(part in str(caught.value) for part in says)


def test_the_samples_are_small_readable_images_that_the_phantoms_card_lists():
    folder = CONTENT / "samples"
    table = list_images(
        shipped_card("phantoms", path=str(folder), source={"kind": "table", "columns": {"patient": "patient"}})
    )
    assert len(table) == 8
    assert sorted(table.files) == sorted(path.name for path in folder.glob("*.png"))
    assert set(table.labels.tolist()) == {0, 1, 2}
    for file in table.files:
        assert (folder / file).stat().st_size < 5_000
        assert read_image(folder / file, Reading(size=64, channels=1)).pixels.std() > 10


def test_pneumoniamnist_holds_its_official_counts(real_data: Path, tmp_path: Path):
    card = shipped_card("pneumoniamnist", path=str(real_data / "pneumoniamnist_28.npz"))
    store = prepare(card, root=tmp_path)
    counts = pd.crosstab(store.index["split"], store.index["label"])
    assert len(store) == 5856
    assert counts.loc["train"].tolist() == [1214, 3494]
    assert counts.loc["val"].tolist() == [135, 389]
    assert counts.loc["test"].tolist() == [234, 390]
    with np.load(card.path, allow_pickle=False) as archive:
        assert np.array_equal(store.pixels[:4708, :, :, 0], archive["train_images"])
        assert np.array_equal(store.pixels[-624:, :, :, 0], archive["test_images"])
    folds = make_folds(store, k=3, seed=0, test="auto", test_fraction=0.2)
    assert np.array_equal(folds.test, np.arange(5232, 5856))
    assert pd.Series(folds.fold).groupby(store.index["pixel_digest"]).nunique().max() == 1
    assert store.index["pixel_digest"].duplicated().any()  # or the line above shows nothing


def test_no_patient_of_cxr_views_crosses_a_fold(real_data: Path, tmp_path: Path):
    store = prepare(shipped_card("cxr_views", path=str(real_data / "cxr-views")), root=tmp_path)
    assert (len(store), len(set(store.patients.tolist()))) == (326, 187)
    assert store.classes == ("AP", "AP Supine", "PA")
    assert store.manifest.quarantine == ()
    views = store.index.groupby("patient_id")["label"].nunique()
    assert (views > 1).sum() == 13
    for seed in range(5):
        folds = make_folds(store, k=5, seed=seed, test="auto", test_fraction=0.2)
        check_no_leak(folds, store)
        assert pd.Series(folds.fold).groupby(store.patients).nunique().max() == 1
        share = len(set(store.patients[folds.test].tolist())) / 187
        assert share == pytest.approx(0.2, abs=0.01)
        for fold in range(5):
            assert set(store.labels[folds.validation(fold)].tolist()) == {0, 1, 2}


def test_a_wide_radiograph_is_not_squeezed(real_data: Path, tmp_path: Path):
    folder = real_data / "cxr-views" / "images"
    wide = next(path for path in sorted(folder.iterdir()) if _aspect(path) > 1.2)
    fitted = read_image(wide, Reading(size=128, channels=1)).pixels[:, :, 0]
    black = (128 - round(128 / _aspect(wide))) // 2
    assert (fitted[: black - 1] == 0).all()
    assert fitted[black + 1 : -black - 1].any(axis=1).mean() > 0.9


def write_medmnist(path: Path, n_classes: int, channels: int, *, findings: int | None) -> None:
    shape = (n_classes, 28, 28, 3) if channels == 3 else (n_classes, 28, 28)
    labels = np.arange(n_classes)[:, None]
    if findings:
        labels = np.zeros((2, findings), int)
        labels[1, 3] = labels[1, 5] = 1
    content = {}
    for seed, split in enumerate(("train", "test")):
        content[f"{split}_images"] = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        content[f"{split}_labels"] = labels
    np.savez(path, **content)


def _aspect(path: Path) -> float:
    with Image.open(path) as image:
        return image.width / image.height
