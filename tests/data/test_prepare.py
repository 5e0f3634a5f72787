"""A store holds exactly what the card describes, is published whole or not at all, and never decoded twice."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from broken_readers import read_and_note, read_or_break, read_tagged
from consilia.config.card import DataCard
from consilia.config.reading import Reading
from consilia.data.decode.reader import read_image
from consilia.data.decode.workers import LocalWorkers
from consilia.data.sources.card import list_images
from consilia.data.sources.listing import Quarantined
from consilia.data.store import prepare as prepare_module
from consilia.data.store.image_store import INDEX, MANIFEST, PIXELS, ImageStore
from consilia.data.store.partial import JOURNAL
from consilia.data.store.prepare import InterruptedPrepareError, prepare
from consilia.errors import DataError
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

    def test_tags_of_some_files_are_columns_with_gaps(self, tmp_path, stores):
        with_tags = ("000.png", "009.png", "023.png")
        card = card_of(write_table(tmp_path / "made", balanced()))
        store = prepare(card, root=stores, workers=partial(LocalWorkers, 1, read=partial(read_tagged, with_tags)))
        expected = ["L" if name in with_tags else "" for name in store.index["file"]]
        assert store.index["tag_Laterality"].tolist() == expected
        assert ImageStore.open(store.folder).index.equals(store.index)

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
        monkeypatch.setattr("consilia.data.decode.workers.BLOCK_BYTES", 64 * 3)  # three images a block
        rows = balanced()
        digests = []
        for workers in (1, 2):
            folder = write_table(tmp_path / f"copy-{workers}", rows)
            (folder / "005.png").write_bytes(b"")
            card = card_of(folder, max_bad=0.5)
            store = prepare(card, root=tmp_path / f"root-{workers}", workers=partial(LocalWorkers, workers))
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
        monkeypatch.setattr(prepare_module, "decode_blocks", refuse_to_decode)
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

    def test_progress_rises_to_the_number_of_images(self, tmp_path, stores, monkeypatch):
        monkeypatch.setattr("consilia.data.decode.workers.BLOCK_BYTES", 64 * 5)
        said: list[tuple[int, int]] = []
        card = card_of(write_table(tmp_path / "made", balanced()))
        prepare(card, root=stores, progress=lambda done, total: said.append((done, total)))
        assert said == [(0, 24), (5, 24), (10, 24), (15, 24), (20, 24), (24, 24)]


class Interrupt:
    """A progress that presses Ctrl-C, or does worse, once `at` images are done."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.said: list[int] = []

    def __call__(self, done: int, total: int) -> None:
        self.said.append(done)
        if done >= self.at:
            raise KeyboardInterrupt


KILLED = """
import os, signal, sys
from functools import partial
from pathlib import Path
from broken_readers import read_and_note
from consilia.data.decode import workers as decode
from consilia.data.store.prepare import prepare
from data_tables import card_of

def die(done, total):
    if done >= 10:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    folder, stores, log = map(Path, sys.argv[1:])
    decode.BLOCK_BYTES = 64 * 5
    workers = partial(decode.LocalWorkers, 2, read=partial(read_and_note, log))
    prepare(card_of(folder, max_bad=0.5), root=stores, workers=workers, progress=die)
"""


class TestResume:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """24 images, one of them unreadable, in blocks of five."""
        monkeypatch.setattr("consilia.data.decode.workers.BLOCK_BYTES", 64 * 5)
        folder = write_table(tmp_path / "made", balanced())
        (folder / "003.png").write_bytes(b"")
        return folder

    @staticmethod
    def card(folder: Path) -> DataCard:
        return card_of(folder, max_bad=0.5)

    def stop_at(self, at: int, folder: Path, stores: Path) -> Path:
        """Interrupt a prepare and return what it leaves."""
        with pytest.raises(InterruptedPrepareError, match=f"{at} of 24 images decoded.*same command goes on"):
            prepare(self.card(folder), root=stores, progress=Interrupt(at))
        (left,) = stores.glob(".partial-*")
        assert {path.name for path in stores.iterdir()} == {".lock", left.name}
        return left

    def check_equal(self, store: ImageStore, folder: Path, stores: Path) -> None:
        """The store is that of an undisturbed prepare, byte for byte, and nothing else is left."""
        whole = prepare(self.card(folder), root=stores.with_name("undisturbed"))
        assert store.folder.name == whole.folder.name
        assert {path.name: path.read_bytes() for path in store.folder.iterdir()} == {
            path.name: path.read_bytes() for path in whole.folder.iterdir()
        }
        assert not list(stores.glob(".partial-*"))

    def test_a_killed_prepare_goes_on_and_decodes_no_finished_block_again(self, folder, stores, tmp_path):
        log = tmp_path / "log"
        (tmp_path / "killed.py").write_text(KILLED)
        done = subprocess.run(
            [sys.executable, str(tmp_path / "killed.py"), str(folder), str(stores), str(log)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])},
            timeout=60,
            check=False,
        )
        assert done.returncode == -9
        progress = Interrupt(at=99)
        workers = partial(LocalWorkers, 2, read=partial(read_and_note, log))
        store = prepare(self.card(folder), root=stores, workers=workers, progress=progress)
        assert progress.said == [10, 15, 20, 24]
        decoded = log.read_text().split()
        assert [decoded.count(f"{number:03d}.png") for number in range(10)] == [1] * 10
        assert set(decoded) == {f"{number:03d}.png" for number in range(24)}
        self.check_equal(store, folder, stores)

    @pytest.mark.parametrize("at", [5, 20])
    def test_an_interrupted_prepare_goes_on_where_it_stopped(self, folder, stores, at):
        self.stop_at(at, folder, stores)
        progress = Interrupt(at=99)
        store = prepare(self.card(folder), root=stores, progress=progress)
        assert progress.said == list(dict.fromkeys([*range(at, 24, 5), 24]))
        self.check_equal(store, folder, stores)

    def test_an_archive_goes_on_too(self, stores, tmp_path, monkeypatch):
        monkeypatch.setattr("consilia.data.decode.workers.BLOCK_BYTES", 64 * 5)
        pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
        arrays = {
            f"{split}_{part}": pixels if part == "images" else np.arange(12) % 2
            for split in ("train", "test")
            for part in ("images", "labels")
        }
        np.savez(tmp_path / "a.npz", **arrays)
        source = {"kind": "npz", "file": "a.npz"}
        card = DataCard.model_validate(
            {"name": "a", "path": str(tmp_path / "a.npz"), "source": source, "group": "none", "size": 8}
        )
        with pytest.raises(InterruptedPrepareError):
            prepare(card, root=stores, progress=Interrupt(at=15))
        progress = Interrupt(at=99)
        store = prepare(card, root=stores, progress=progress)
        assert progress.said == [17, 22, 24]  # a block ends with its split: 5, 5, 2, 5, 5, 2
        assert np.array_equal(store.pixels[..., 0], np.concatenate([pixels, pixels]))

    @pytest.mark.parametrize(
        "damage", ["torn line", "flipped bit in a line", "pixels cut", "flipped pixel", "no journal", "empty journal"]
    )
    def test_what_a_power_cut_spoils_is_decoded_again(self, folder, stores, damage):
        left = self.stop_at(20, folder, stores)
        journal, pixels = left / JOURNAL, left / PIXELS
        lines = journal.read_bytes()
        images = bytearray(pixels.read_bytes())
        # Interrupting syncs; this journal is of a process that never came to it.
        assert b'"synced":0' in lines.splitlines()[-1]
        match damage:
            case "torn line":
                journal.write_bytes(lines[:-7])
            case "flipped bit in a line":
                journal.write_bytes(lines[:-40] + bytes([lines[-40] ^ 1]) + lines[-39:])
            case "pixels cut":
                pixels.write_bytes(images[:-3])
            case "flipped pixel":
                images[-64 * 7] ^= 1
                pixels.write_bytes(images)
            case "no journal":
                journal.unlink()
            case "empty journal":
                journal.write_bytes(b"")
        progress = Interrupt(at=99)
        store = prepare(self.card(folder), root=stores, progress=progress)
        kept = {"flipped pixel": 10, "no journal": 0, "empty journal": 0}
        assert progress.said[0] == kept.get(damage, 15)
        self.check_equal(store, folder, stores)

    def test_pixels_that_were_promised_and_are_gone_are_decoded_again(self, folder, stores, monkeypatch):
        monkeypatch.setattr("consilia.data.store.partial._SYNC_BLOCKS", 1)
        left = self.stop_at(20, folder, stores)
        (left / PIXELS).write_bytes(b"")
        progress = Interrupt(at=99)
        store = prepare(self.card(folder), root=stores, progress=progress)
        assert progress.said[0] == 0
        self.check_equal(store, folder, stores)

    def test_more_bad_files_may_be_allowed_without_decoding_again(self, folder, stores, monkeypatch):
        with pytest.raises(DataError, match="What was decoded is kept"):
            prepare(card_of(folder), root=stores)
        monkeypatch.setattr(prepare_module, "decode_blocks", refuse_to_decode)
        assert len(prepare(self.card(folder), root=stores)) == 23

    def test_changed_files_start_anew_and_drop_what_was_kept_of_the_old(self, folder, stores):
        left = self.stop_at(10, folder, stores)
        Image.fromarray(picture(777)).save(folder / "000.png")
        os.utime(folder / "000.png", ns=(1, 1))
        progress = Interrupt(at=5)
        with pytest.raises(InterruptedPrepareError):
            prepare(self.card(folder), root=stores, progress=progress)
        (other,) = stores.glob(".partial-*")
        assert other != left
        assert progress.said[0] == 0

    def test_another_cards_unfinished_store_is_kept(self, folder, stores):
        left = self.stop_at(10, folder, stores)
        prepare(card_of(folder, max_bad=0.5, name="made-2"), root=stores)
        assert list(stores.glob(".partial-*")) == [left]

    def test_a_disk_too_full_names_unfinished_stores_and_counts_what_is_there(self, folder, stores):
        left = self.stop_at(20, folder, stores)
        with pytest.raises(DataError, match=f"may be deleted: {left}"):
            prepare(card_of(folder, name="other"), root=stores, free_space=lambda folder: 0)
        need = 24 * (64 + 512) - 19 * 64 - 128
        with pytest.raises(DataError, match="are free"):
            prepare(self.card(folder), root=stores, free_space=lambda folder: need - 1)
        prepare(self.card(folder), root=stores, free_space=lambda folder: need)


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

    def test_a_file_that_kills_its_decoder_is_quarantined_like_any_other(self, tmp_path, stores):
        rows = balanced()
        rows[4] |= {"path": "kill.png"}
        folder = write_table(tmp_path / "made", rows)
        store = prepare(card_of(folder, max_bad=0.1), root=stores, workers=partial(LocalWorkers, 2, read=read_or_break))
        (bad,) = store.manifest.quarantine
        assert bad.file == "kill.png"
        assert "its decoder crashed twice" in bad.reason
        assert store.index["file"].tolist() == [row["path"] for row in rows if row["path"] != "kill.png"]

    def test_above_max_bad_prepare_fails_with_the_list(self, tmp_path, stores):
        folder = write_table(tmp_path / "made", balanced())
        self.spoil(folder)
        with pytest.raises(DataError, match=r"4 of 24 images.*max_bad") as caught:
            prepare(card_of(folder, max_bad=0.16), root=stores)
        assert all(name in str(caught.value) for name in ("001.png", "004.png", "007.png", "010.png"))
        assert not list(stores.glob("made-*"))

    def test_files_that_could_not_even_be_listed_count_and_stand_first(self, tmp_path, stores, monkeypatch):
        folder = write_table(tmp_path / "made", balanced())
        (folder / "001.png").write_bytes(b"")
        lost = Quarantined(file="lost.dcm", reason="lost.dcm: the header is damaged.")
        table = replace(list_images(card_of(folder)), unreadable=(lost,))
        monkeypatch.setattr(prepare_module, "list_images", lambda card: table)
        store = prepare(card_of(folder, max_bad=0.08), root=stores)
        assert [bad.file for bad in store.manifest.quarantine] == ["lost.dcm", "001.png"]
        with pytest.raises(DataError, match=r"2 of 25 images.*\n  lost\.dcm: the header is damaged"):
            prepare(card_of(folder, max_bad=0.079), root=stores)

    def test_a_class_that_vanishes_is_an_error(self, tmp_path, stores):
        rows = [*balanced(), row(98, "rare", "98"), row(99, "rare", "99")]
        folder = write_table(tmp_path / "made", rows)
        for name in ("098.png", "099.png"):
            (folder / name).write_bytes(b"")
        with pytest.raises(DataError, match="2 unreadable files: class 'rare' has no images"):
            prepare(card_of(folder, max_bad=0.5), root=stores)


class TestWhere:
    def test_a_few_png_files_are_decoded_in_this_process_and_other_formats_never(self, tmp_path, stores):
        folder = write_table(tmp_path / "made", balanced())
        refuse = partial(LocalWorkers, 0)  # nothing would ever be decoded
        assert prepare_module._default_workers(list_images(card_of(folder))) is None
        Image.fromarray(picture(1)).save(folder / "001.png", format="TIFF")
        assert prepare_module._default_workers(list_images(card_of(folder))) is not None
        store = prepare(card_of(folder), root=stores)
        assert store.index["format"].tolist() == ["PNG", "TIFF", *["PNG"] * 22]
        assert len(prepare(card_of(folder), root=stores, workers=refuse)) == 24  # known: no worker is started


class TestDisk:
    def test_a_disk_too_full_is_forecast_with_the_numbers(self, tmp_path, stores, monkeypatch):
        monkeypatch.setattr(prepare_module, "decode_blocks", refuse_to_decode)
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
        del manifest["reading"]  # which version 1 did not have
        (folder / MANIFEST).write_text(json.dumps(manifest | {"schema_version": 1, "size": 8}))
        with pytest.raises(DataError, match=r"manifest\.json has schema version 1, but this consilia reads 2"):
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
