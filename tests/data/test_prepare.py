"""A store holds exactly what the card describes, is published whole or not at all, and never decoded twice."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from consilia.data import prepare as prepare_module
from consilia.data.prepare import prepare
from consilia.data.reader import read_image
from consilia.data.store import INDEX, MANIFEST, PIXELS, ImageStore
from consilia.errors import DataError
from consilia.plan.data import DataCard
from consilia.plan.reading import Reading
from data_tables import balanced, card_of, picture, row, write_table


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    return tmp_path / "stores"


def refuse_to_decode(*_args, **_kwargs):
    raise AssertionError("decoded again")


class TestContent:
    def test_pixels_and_index_equal_what_the_reader_and_the_table_say(self, tmp_path, stores):
        rows = balanced(patients=4, images=3)
        folder = write_table(tmp_path / "made", rows)
        store = prepare(card_of(folder, size=10, channels=3), root=stores)
        assert store.pixels.shape == (12, 10, 10, 3)
        assert store.index["file"].tolist() == [entry["path"] for entry in rows]
        assert store.index["patient_id"].tolist() == [entry["patient"] for entry in rows]
        assert [store.classes[label] for label in store.labels] == [entry["label"] for entry in rows]
        assert store.index["image_id"].tolist() == list(range(12))
        for i, entry in enumerate(rows):
            assert np.array_equal(
                store.pixels[i], read_image(folder / entry["path"], Reading(size=10, channels=3)).pixels
            )

    def test_moments_and_pixel_digests_are_those_of_the_pixels(self, make_store):
        store = make_store(balanced(), pixels={"003.png": 0})
        values = store.pixels.reshape(len(store), -1) / 255.0
        assert np.allclose(store.index["mean"], values.mean(axis=1), rtol=1e-12)
        assert np.allclose(store.index["mean_square"], (values**2).mean(axis=1), rtol=1e-12)
        equal = store.index["pixel_digest"].to_numpy()[:, None] == store.index["pixel_digest"].to_numpy()[None]
        same = (store.pixels[:, None] == store.pixels[None]).all(axis=(2, 3, 4))
        assert np.array_equal(equal, same)
        assert same.sum() == len(store) + 2

    def test_nothing_can_be_written_through_the_store(self, make_store):
        with pytest.raises(ValueError, match="read-only"):
            make_store(balanced()).pixels[0] = 0

    def test_an_archive_keeps_its_pixels_labels_and_splits(self, tmp_path, stores):
        generator = np.random.default_rng(0)
        train = generator.integers(0, 256, (700, 8, 8, 3), dtype=np.uint8)  # more than one block
        test = generator.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
        labels = {"train_labels": np.arange(700)[:, None] % 3, "test_labels": np.arange(5)[:, None] % 3}
        np.savez_compressed(tmp_path / "a.npz", train_images=train, test_images=test, **labels)
        card = DataCard.model_validate(
            {
                "name": "archive",
                "path": str(tmp_path / "a.npz"),
                "source": {"kind": "npz", "file": "a.npz"},
                "group": "none",
                "size": 8,
                "channels": 3,
            }
        )
        store = prepare(card, root=stores)
        assert np.array_equal(store.pixels, np.concatenate([train, test]))
        assert store.labels.tolist() == [*(np.arange(700) % 3), *(np.arange(5) % 3)]
        assert store.index["split"].tolist() == ["train"] * 700 + ["test"] * 5
        assert store.patients.tolist() == [str(i) for i in range(705)]
        assert not store.manifest.has_patients

    def test_a_cut_archive_is_a_data_error(self, tmp_path, stores):
        path = tmp_path / "a.npz"
        pixels = np.random.default_rng(0).integers(0, 256, (2000, 8, 8), dtype=np.uint8)
        np.savez_compressed(path, train_labels=np.arange(2000) % 2, train_images=pixels)
        data = bytearray(path.read_bytes())
        middle = data.find(b"train_images") + 100_000
        data[middle : middle + 50] = bytes(50)
        path.write_bytes(data)
        card = DataCard.model_validate(
            {"name": "a", "path": str(path), "source": {"kind": "npz", "file": "a.npz"}, "group": "none", "size": 8}
        )
        with pytest.raises(DataError, match=r"a\.npz is damaged"):
            prepare(card, root=stores)
        assert not list(stores.glob("a-*"))


class TestDigest:
    def test_workers_and_place_do_not_change_it(self, tmp_path, monkeypatch):
        monkeypatch.setattr("consilia.data.decode.BLOCK_BYTES", 64 * 3)  # three images a block
        rows = balanced()
        digests = []
        for workers in (1, 2):
            folder = write_table(tmp_path / f"copy-{workers}", rows)
            (folder / "005.png").write_bytes(b"")
            store = prepare(card_of(folder, max_bad=0.5), root=tmp_path / f"root-{workers}", workers=workers)
            digests.append((store.digest, store.folder.name, store.index["file"].tolist()))
            assert [bad.file for bad in store.manifest.quarantine] == ["005.png"]
        assert digests[0] == digests[1]
        assert digests[0][1] == f"made-{digests[0][0][:16]}"

    @pytest.mark.parametrize("change", ["pixel", "label", "patient", "split", "class order", "size", "channels"])
    def test_every_part_of_the_content_changes_it(self, tmp_path, stores, change):
        rows = [entry | {"split": "train"} for entry in balanced()]
        folder = write_table(tmp_path / "made", rows)
        fields = {"columns": {"split": "split"}}
        before = prepare(card_of(folder, **fields), root=stores).digest
        if change == "pixel":
            pixels = picture(0)
            pixels[4:8, 4:8] ^= 255
            Image.fromarray(pixels).save(folder / "000.png")
        elif change in ("label", "patient", "split"):
            rows[0] |= {change: {"label": "b", "patient": "another", "split": "val"}[change]}
            write_table(folder, rows, images=False)
        else:
            fields |= {"class order": {"classes": ["b", "a"]}, "size": {"size": 9}, "channels": {"channels": 3}}[change]
        assert prepare(card_of(folder, **fields), root=stores).digest != before

    def test_a_renamed_file_keeps_the_store_and_takes_the_new_name(self, tmp_path, stores):
        rows = balanced()
        folder = write_table(tmp_path / "made", rows)
        before = prepare(card_of(folder), root=stores)
        (folder / "000.png").rename(folder / "renamed.png")
        rows[0]["path"] = "renamed.png"
        write_table(folder, rows, images=False)
        after = prepare(card_of(folder), root=stores)
        assert after.folder == before.folder
        assert after.index["file"][0] == "renamed.png"


class TestOnce:
    def test_a_second_prepare_decodes_nothing(self, tmp_path, stores, monkeypatch):
        card = card_of(write_table(tmp_path / "made", balanced()))
        first = prepare(card, root=stores)
        monkeypatch.setattr(prepare_module, "decode", refuse_to_decode)
        second = prepare(card, root=stores)
        assert second.folder == first.folder
        assert second.index.equals(first.index)

    def test_a_changed_file_is_decoded_again(self, tmp_path, stores):
        folder = write_table(tmp_path / "made", balanced())
        first = prepare(card_of(folder), root=stores)
        Image.fromarray(picture(777)).save(folder / "000.png")
        os.utime(folder / "000.png", ns=(1, 1))
        second = prepare(card_of(folder), root=stores)
        assert not np.array_equal(second.pixels[0], first.pixels[0])
        assert np.array_equal(second.pixels[1:], first.pixels[1:])

    def test_a_damaged_store_is_written_anew(self, tmp_path, stores):
        card = card_of(write_table(tmp_path / "made", balanced()))
        first = prepare(card, root=stores)
        expected = first.pixels.copy()
        (first.folder / PIXELS).write_bytes(b"cut")
        assert np.array_equal(prepare(card, root=stores).pixels, expected)

    def test_what_a_killed_run_left_is_no_store_and_goes(self, tmp_path, stores):
        card = card_of(write_table(tmp_path / "made", balanced()))
        whole = prepare(card, root=tmp_path / "elsewhere")
        partial = stores / ".partial-dead"
        shutil.copytree(whole.folder, partial)
        store = prepare(card, root=stores)
        assert store.folder.name == whole.folder.name
        assert not partial.exists()

    def test_an_interrupted_prepare_leaves_nothing_behind(self, tmp_path, stores):
        def interrupt(done: int, total: int) -> None:
            raise KeyboardInterrupt

        card = card_of(write_table(tmp_path / "made", balanced()))
        with pytest.raises(KeyboardInterrupt):
            prepare(card, root=stores, progress=interrupt)
        assert [path.name for path in stores.iterdir()] == [".lock"]

    def test_progress_rises_to_the_number_of_images(self, tmp_path, stores, monkeypatch):
        monkeypatch.setattr("consilia.data.decode.BLOCK_BYTES", 64 * 5)
        said: list[tuple[int, int]] = []
        card = card_of(write_table(tmp_path / "made", balanced()))
        prepare(card, root=stores, progress=lambda done, total: said.append((done, total)))
        assert said == [(5, 24), (10, 24), (15, 24), (20, 24), (24, 24)]


class TestQuarantine:
    def spoil(self, folder: Path) -> None:
        (folder / "001.png").write_bytes(b"")
        (folder / "004.png").write_bytes((folder / "004.png").read_bytes()[:60])
        (folder / "007.png").unlink()
        (folder / "010.png").write_text("hello")

    def test_bad_files_are_listed_with_their_reason_and_the_rest_is_kept(self, tmp_path, stores):
        rows = balanced()
        folder = write_table(tmp_path / "made", rows)
        self.spoil(folder)
        store = prepare(card_of(folder, max_bad=0.2), root=stores)
        reasons = {bad.file: bad.reason for bad in store.manifest.quarantine}
        assert list(reasons) == ["001.png", "004.png", "007.png", "010.png"]
        for file, says in zip(reasons, ["0 bytes", "truncated", "does not exist", "neither"], strict=True):
            assert says in reasons[file]
            assert file in reasons[file]
        kept = [entry for entry in rows if entry["path"] not in reasons]
        assert store.index["file"].tolist() == [entry["path"] for entry in kept]
        assert store.patients.tolist() == [entry["patient"] for entry in kept]
        for i, entry in enumerate(kept):
            assert np.array_equal(
                store.pixels[i], read_image(folder / entry["path"], Reading(size=8, channels=1)).pixels
            )
        assert json.loads((store.folder / MANIFEST).read_text())["quarantine"][0]["file"] == "001.png"

    def test_without_patients_the_kept_images_are_numbered_anew(self, tmp_path, stores):
        folder = write_table(tmp_path / "made", balanced())
        self.spoil(folder)
        store = prepare(card_of(folder, group="none", max_bad=0.2), root=stores)
        assert store.patients.tolist() == [str(i) for i in range(20)]

    def test_above_max_bad_prepare_fails_with_the_list(self, tmp_path, stores):
        folder = write_table(tmp_path / "made", balanced())
        self.spoil(folder)
        with pytest.raises(DataError, match=r"4 of 24 images.*max_bad") as caught:
            prepare(card_of(folder, max_bad=0.16), root=stores)
        assert all(name in str(caught.value) for name in ("001.png", "004.png", "007.png", "010.png"))
        assert not list(stores.glob("made-*"))

    def test_a_class_that_vanishes_is_an_error(self, tmp_path, stores):
        rows = [*balanced(), row(98, "rare", "98"), row(99, "rare", "99")]
        folder = write_table(tmp_path / "made", rows)
        for name in ("098.png", "099.png"):
            (folder / name).write_bytes(b"")
        with pytest.raises(DataError, match="2 unreadable files: class 'rare' has no images"):
            prepare(card_of(folder, max_bad=0.5), root=stores)


class TestDisk:
    def test_a_disk_too_full_is_forecast_with_the_numbers(self, tmp_path, stores, monkeypatch):
        monkeypatch.setattr(prepare_module, "decode", refuse_to_decode)
        card = card_of(write_table(tmp_path / "made", balanced()), size=1000)
        with pytest.raises(DataError, match=r"24 images of 1000 x 1000 x 1 needs 24\.0 MB, but 23\.0 MB are free"):
            prepare(card, root=stores, free_space=lambda folder: 23_000_000)

    def test_enough_is_enough(self, tmp_path, stores):
        card = card_of(write_table(tmp_path / "made", balanced()))
        store = prepare(card, root=stores, free_space=lambda folder: 24 * (64 + 512))
        size = sum(file.stat().st_size for file in store.folder.iterdir())
        assert size < 24 * (64 + 512) + 8_000  # 8,000: headers of the files


class TestOpen:
    @pytest.fixture
    def folder(self, make_store) -> Path:
        return make_store(balanced()).folder

    def test_a_store_opens_as_it_was_prepared(self, make_store):
        store = make_store(balanced())
        again = ImageStore.open(store.folder)
        assert again.manifest == store.manifest
        assert again.index.equals(store.index)
        assert np.array_equal(again.pixels, store.pixels)

    @pytest.mark.parametrize("name", [PIXELS, INDEX, MANIFEST])
    @pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
    def test_a_damaged_file_is_named(self, folder, name, damage):
        file = folder / name
        data = file.read_bytes()
        file.unlink()
        if damage != "missing":
            file.write_bytes(data[: len(data) * 2 // 3] if damage == "cut" else b"")
        with pytest.raises(DataError, match=name):
            ImageStore.open(folder)

    def test_another_schema_version_is_refused(self, folder):
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps(manifest | {"schema_version": 2}))
        with pytest.raises(DataError, match=r"manifest\.json has schema version 2"):
            ImageStore.open(folder)

    @pytest.mark.parametrize("change", [{"n_images": 23}, {"size": 9}, {"digest": "0" * 64}, {"unknown": 1}])
    def test_a_manifest_that_does_not_fit_its_files_is_refused(self, folder, change):
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps(manifest | change))
        with pytest.raises(DataError, match=str(folder)):
            ImageStore.open(folder)

    def test_pixels_of_another_shape_are_refused(self, folder):
        np.save(folder / PIXELS, np.zeros((23, 8, 8, 1), np.uint8))
        with pytest.raises(DataError, match=r"must be uint8 \(24, 8, 8, 1\), but is uint8 \(23, 8, 8, 1\)"):
            ImageStore.open(folder)

    def test_pickled_pixels_are_never_loaded(self, folder):
        np.save(folder / PIXELS, np.array([{}], dtype=object), allow_pickle=True)
        with pytest.raises(DataError, match=PIXELS):
            ImageStore.open(folder)
