"""The built-in data: the same for the same seed, honest in its table, and learned by shape, not by brightness."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from consilia.data.folds import make_folds
from consilia.data.phantoms import write_phantoms
from consilia.data.store.image_store import ImageStore
from consilia.data.store.prepare import prepare
from consilia.errors import DataError
from consilia.files import sha256_of_file
from data_tables import shipped_card

SIDE = 48  # of the images that the small network sees


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "default")


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "metadata.csv", dtype=str, keep_default_na=False)


@pytest.fixture(scope="module")
def store(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    card = shipped_card("phantoms", path=str(folder))
    return prepare(card, root=tmp_path_factory.mktemp("stores"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def files(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): sha256_of_file(f) for f in sorted(folder.rglob("*")) if f.is_file()}


class TestFiles:
    def test_one_seed_gives_the_same_bytes_and_another_seed_others(self, tmp_path):
        first, again, other = (
            write_phantoms(tmp_path / name, patients=24, size=32, seed=seed)
            for name, seed in (("first", 5), ("again", 5), ("other", 6))
        )
        assert files(first) == files(again)
        same = [name for name, digest in files(first).items() if files(other).get(name) == digest]
        assert same == []

    def test_phantoms_of_the_same_settings_are_left_as_they_are(self, tmp_path):
        folder = write_phantoms(tmp_path / "p", patients=24, size=32)
        before = {name: (folder / name).stat().st_mtime_ns for name in files(folder)}
        assert write_phantoms(folder, patients=24, size=32) == folder
        assert {name: (folder / name).stat().st_mtime_ns for name in files(folder)} == before

    def test_phantoms_of_other_settings_are_never_mixed(self, tmp_path):
        write_phantoms(tmp_path / "p", patients=24, size=32)
        with pytest.raises(DataError, match=r"p already holds phantoms of other settings.*'seed': 0.*'seed': 1"):
            write_phantoms(tmp_path / "p", patients=24, size=32, seed=1)

    def test_a_folder_with_anything_else_is_refused_and_left_alone(self, tmp_path):
        (tmp_path / "mine.txt").write_text("mine")
        with pytest.raises(DataError, match="already holds something else"):
            write_phantoms(tmp_path, patients=24, size=32)
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

    def test_an_empty_folder_is_filled(self, tmp_path):
        (tmp_path / "empty").mkdir()
        assert len(files(write_phantoms(tmp_path / "empty", patients=24, size=32))) > 24

    @pytest.mark.parametrize("settings", [{"patients": 23}, {"size": 31}])
    def test_too_few_patients_or_pixels_are_refused(self, tmp_path, settings):
        with pytest.raises(DataError, match="patients >= 24 and size >= 32"):
            write_phantoms(tmp_path / "p", **settings)

    def test_the_settings_stand_in_the_folder(self, folder):
        assert json.loads((folder / "phantoms.json").read_text()) == {
            "version": 1,
            "patients": 240,
            "size": 64,
            "seed": 0,
        }


class TestTable:
    def test_every_row_is_an_image_of_the_asked_size_and_every_image_a_row(self, folder, table):
        assert sorted(table["path"]) == sorted(f"images/{file.name}" for file in (folder / "images").iterdir())
        for path in table["path"]:
            with Image.open(folder / path) as image:
                assert (image.size, image.mode) == ((64, 64), "L")

    def test_patients_have_one_class_one_split_one_scanner_and_one_to_four_images(self, table):
        for column in ("label", "split", "scanner"):
            assert table.groupby("patient")[column].nunique().max() == 1
        counts = table["patient"].value_counts()
        assert set(counts) == {1, 2, 3, 4}
        assert len(counts) == 240
        assert len(table) == pytest.approx(600, rel=0.05)

    def test_scanner_and_split_are_dealt_evenly_to_the_classes(self, table):
        patients = table.drop_duplicates("patient")
        assert (patients.groupby(["label", "scanner"]).size() == 40).all()
        assert (patients.groupby(["label", "split"]).size().unstack() == {"test": 20, "train": 60}).all(axis=None)

    def test_lesions_lie_in_the_image_where_there_are_any(self, table):
        clear = table["label"] == "clear"
        places = table[["lesion_x", "lesion_y", "lesion_radius"]]
        assert (places[clear] == "").all(axis=None)
        assert places[~clear].astype(float).pipe(lambda p: (p > 0) & (p < 1)).all(axis=None)

    def test_a_nodule_is_where_the_table_says(self, folder, table):
        brighter = []
        for _, nodule in table[table["label"] == "nodule"].iterrows():
            pixels = np.asarray(Image.open(folder / nodule["path"]), dtype=float)
            rows, columns = (np.mgrid[:64, :64] + 0.5) / 64
            distance = np.hypot(columns - float(nodule["lesion_x"]), rows - float(nodule["lesion_y"]))
            radius = float(nodule["lesion_radius"])
            ring = (distance > 1.2 * radius) & (distance < 1.8 * radius)
            brighter.append(pixels[distance < 0.5 * radius].mean() > pixels[ring].mean())
        assert np.mean(brighter) > 0.9

    def test_the_shipped_card_prepares_and_folds_it(self, store):
        folds = make_folds(store, k=5, seed=0, test="auto", test_fraction=0.2)
        assert store.classes == ("clear", "consolidation", "nodule")
        assert np.array_equal(folds.test, np.flatnonzero(store.index["split"] == "test"))


class TestTask:
    def auc(self, store: ImageStore, rows: np.ndarray, probabilities: np.ndarray) -> float:
        return float(roc_auc_score(store.labels[rows], probabilities, multi_class="ovr"))

    def test_brightness_does_not_tell_the_classes_apart(self, store):
        train, test = (np.flatnonzero(store.index["split"] == split) for split in ("train", "test"))
        thumbnails = store.pixels.reshape(len(store), 8, 8, 8, 8).mean(axis=(2, 4)).reshape(len(store), 64)
        for strength in (0.01, 0.1, 1.0):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000))
            model.fit(thumbnails[train], store.labels[train])
            assert self.auc(store, test, model.predict_proba(thumbnails[test])) < 0.75

    def test_one_scanner_s_images_are_told_from_the_other_s(self, store, table):
        """Or there would be nothing to generalise over."""
        corners = store.pixels[:, 2:7, :, 0].astype(float)
        left, right = corners[:, :, 3:8].mean(axis=(1, 2)), corners[:, :, 56:61].mean(axis=(1, 2))
        assert (np.where(left > right, "A", "B") == table["scanner"]).mean() > 0.99

    @pytest.mark.slow("trains a network for as long as all other tests of phantoms together")
    @pytest.mark.usefixtures("one_thread")
    def test_a_small_network_learns_the_shapes(self, store):
        train, test = (np.flatnonzero(store.index["split"] == split) for split in ("train", "test"))
        pixels = torch.from_numpy(store.pixels.copy()).permute(0, 3, 1, 2).float() / 255
        images = F.interpolate((pixels - pixels[train].mean()) / pixels[train].std(), SIDE, mode="bilinear")
        probabilities = train_and_predict(images, torch.tensor(store.labels), train, test)
        assert self.auc(store, test, probabilities) > 0.9


def train_and_predict(images: torch.Tensor, labels: torch.Tensor, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Train timm's `test_resnet` for 12 epochs on shifted images, and predict the test rows."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", in_chans=1, num_classes=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = 12 * -(-len(train) // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for _ in range(12):
        for batch in torch.from_numpy(train)[torch.randperm(len(train))].split(32):
            shift = tuple(torch.randint(-2, 3, (2,)).tolist())
            loss = F.cross_entropy(model(images[batch].roll(shift, dims=(2, 3))), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.inference_mode():
        return model(images[test]).softmax(dim=1).double().numpy()
