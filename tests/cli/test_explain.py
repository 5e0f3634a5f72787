"""`consilia explain`: two files and a row an image, whatever becomes of it, and nothing partial."""

import csv

import numpy as np
import pytest
from PIL import Image

import consilia
from consilia.cli.app import run
from consilia.predict.explain import CAUTION
from consilia.predict.explain import explain as explain_images


@pytest.fixture
def images(tmp_path):
    """Three images, of which the second is broken; the others have the same name in two folders."""
    paths = [tmp_path / "one" / "a b[0].png", tmp_path / "broken.png", tmp_path / "two" / "a b[0].png"]
    for number in (0, 2):
        paths[number].parent.mkdir()
        pixels = np.random.default_rng(number).integers(0, 256, (40, 36), dtype=np.uint8)
        Image.fromarray(pixels).save(paths[number])
    paths[1].write_bytes(b"no image")
    return paths


def explain(bundle, images, out, *more: str) -> int:
    return run(["explain", str(bundle), *map(str, images), "--out", str(out), "--device", "cpu", *more])


def rows_of(out):
    with (out / "index.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_index_has_a_row_for_every_image_and_names_files_that_hold_python_s_heat_maps(
    trained, images, tmp_path, capsys
):
    out = tmp_path / "maps"
    assert explain(trained.bundle, images, out) == 1
    rows = rows_of(out)
    assert [row["image"] for row in rows] == [str(path) for path in images]
    predictor = consilia.load(trained.bundle, device="cpu")
    for row, image in ((rows[0], images[0]), (rows[2], images[2])):
        ((_, expected),) = explain_images(predictor, image)
        assert row["label"] == expected.label
        assert float(row["probability"]) == pytest.approx(expected.probability, abs=1e-6)
        heat_map = np.load(out / row["heat_map"], allow_pickle=False)
        assert heat_map.dtype == np.float32
        np.testing.assert_allclose(heat_map, expected.heat_map, atol=1e-4)
        assert (row["peak_row"], row["peak_column"]) == tuple(map(str, expected.peak or ("", "")))
        assert float(row["gain"]) == pytest.approx(expected.gain, abs=1e-4)
        assert row["says_nothing_because"] == (expected.says_nothing_because or "")
        with Image.open(out / row["overlay"]) as overlay:
            assert overlay.format == "PNG"
        assert row["error"] == ""
    named = {row[key] for row in rows for key in ("overlay", "heat_map")} - {""}
    assert {path.name for path in out.iterdir()} == named | {"index.csv", "about.txt"}
    assert len(named) == 4
    printed = capsys.readouterr()
    assert "3 images, 1 of them unreadable" in printed.out
    assert printed.err.startswith(str(images[1]))


def test_where_a_map_says_nothing_picture_and_index_say_why(trained, tmp_path):
    Image.new("L", (40, 40), 90).save(tmp_path / "plain.png")
    assert explain(trained.bundle, [tmp_path / "plain.png"], tmp_path / "maps") == 0
    (row,) = rows_of(tmp_path / "maps")
    assert row["says_nothing_because"].startswith("The details of this image")
    assert (row["peak_row"], row["peak_column"]) == ("", "")
    with Image.open(tmp_path / "maps" / row["overlay"]) as overlay:
        right = np.asarray(overlay)[40:, overlay.width // 2 :]
    assert (np.ptp(right, axis=2) == 0).all()  # neither a map nor its scale: letters are grey


def test_the_error_of_an_image_stands_in_its_row_alone(trained, images, tmp_path):
    explain(trained.bundle, images, tmp_path / "maps")
    broken = rows_of(tmp_path / "maps")[1]
    assert broken.pop("image") == str(images[1])
    assert str(images[1]) in broken.pop("error")
    assert set(broken.values()) == {""}


def test_without_an_error_the_exit_code_is_0_and_the_limits_are_said_twice(trained, images, tmp_path, capsys):
    out = tmp_path / "maps"
    assert explain(trained.bundle, [images[0]], out) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert CAUTION in printed.out
    assert CAUTION in " ".join((out / "about.txt").read_text(encoding="utf-8").split())


def test_another_class_is_explained_when_asked_for(trained, images, tmp_path):
    out = tmp_path / "maps"
    assert explain(trained.bundle, [images[0]], out, "--label", "consolidation") == 0
    predictor = consilia.load(trained.bundle, device="cpu")
    (row,) = rows_of(out)
    assert row["label"] == "consolidation"
    expected = predictor.predict(images[0])[0].probabilities["consolidation"]
    assert float(row["probability"]) == pytest.approx(expected, abs=1e-6)


def test_an_unknown_class_is_a_user_s_error_and_leaves_no_folder(trained, images, tmp_path, capsys):
    assert explain(trained.bundle, images, tmp_path / "maps", "--label", "fracture") == 2
    assert "clear, consolidation, nodule" in capsys.readouterr().err
    assert not (tmp_path / "maps").exists()


def test_a_folder_that_holds_anything_is_refused_and_left_alone(trained, images, tmp_path, capsys):
    out = tmp_path / "maps"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert explain(trained.bundle, images, out) == 2
    assert "must be a new or an empty folder" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
