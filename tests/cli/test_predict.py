"""`consilia predict`: one row an image, whatever becomes of it."""

import csv
import os

import joblib
import numpy as np
import pytest
import torch
from PIL import Image

import consilia
from consilia.cli.app import run
from consilia.cli.options import limit_threads, share_cores


@pytest.fixture
def images(tmp_path):
    """Three images, of which the second is broken; one name holds what rich would take for markup."""
    paths = [tmp_path / name for name in ("a[red].png", "broken.png", "c.png")]
    for number in (0, 2):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 36), dtype=np.uint8)
        Image.fromarray(pixels).save(paths[number])
    paths[1].write_bytes(b"no image")
    return paths


def predict(bundle, images, *more: str) -> int:
    return run(["predict", str(bundle), *map(str, images), "--device", "cpu", *more])


def test_the_csv_has_a_row_for_every_image_and_the_numbers_of_python(trained, images, tmp_path, capsys):
    out = tmp_path / "predictions.csv"
    assert predict(trained.bundle, images, "--out", str(out)) == 1
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [str(path) for path in images]
    predictor = consilia.load(trained.bundle, device="cpu")
    for row, image in ((rows[0], images[0]), (rows[2], images[2])):
        expected = predictor.predict(image)[0]
        assert row["label"] == expected.label
        assert float(row["confidence"]) == pytest.approx(expected.confidence, abs=1e-6)
        probabilities = {name: float(row[f"probability_{name}"]) for name in predictor.classes}
        assert probabilities == pytest.approx(expected.probabilities, abs=1e-6)
        assert row["error"] == ""
    assert "broken.png" in rows[1]["error"]
    assert {rows[1][key] for key in rows[1] if key not in ("image", "error")} == {""}
    assert "3 images, 1 of them unreadable" in capsys.readouterr().out


def test_good_images_alone_end_with_0(trained, images, tmp_path, capsys):
    assert predict(trained.bundle, [images[0], images[2]], "--out", str(tmp_path / "p.csv")) == 0
    assert predict(trained.bundle, [images[0], images[2]]) == 0
    assert capsys.readouterr().err == ""


def test_the_table_has_a_row_for_every_image_and_errors_go_to_stderr(trained, images, capsys):
    assert predict(trained.bundle, images) == 1
    printed = capsys.readouterr()
    for path in images:
        assert path.name in printed.out
    assert printed.out.count("error") == 1
    reason = "the file is neither DICOM, PNG, JPEG, TIFF, WebP nor BMP, or its header is damaged."
    assert printed.err.splitlines() == [f"{images[1]}: {reason}"]


def test_an_image_that_is_not_there_is_such_a_row_too(trained, images, tmp_path):
    out = tmp_path / "p.csv"
    assert predict(trained.bundle, [tmp_path / "absent.png", images[0]], "--out", str(out)) == 1
    rows = out.read_text().splitlines()
    assert len(rows) == 3
    assert rows[1].endswith("does not exist.")


def test_a_device_that_is_not_there_is_a_user_s_error(trained, images, capsys):
    assert run(["predict", str(trained.bundle), str(images[0]), "--device", "gpux"]) == 2
    assert "gpux" in capsys.readouterr().err


def test_a_prevalence_corrects_the_probabilities_and_a_wrong_one_is_refused(trained, images, tmp_path, capsys):
    predictor = consilia.load(trained.bundle, device="cpu")
    first, *others = predictor.classes
    shares = {name: 0.01 for name in others}
    given = [word for name in others for word in ("--prevalence", f"{name}=0.01")]
    out = tmp_path / "rare.csv"
    assert predict(trained.bundle, images[:1], "--out", str(out), *given) == 0
    with out.open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    expected = predictor.for_prevalence(shares).predict_proba(images[0])[0, 0]
    assert float(row[f"probability_{first}"]) == pytest.approx(expected, abs=1e-6)
    capsys.readouterr()
    for wrong, problem in (
        ("covid=0.1", "but names covid"),
        (first, "must be CLASS=SHARE"),
        (f"{first}=x", "CLASS=SHARE"),
    ):
        assert predict(trained.bundle, images[:1], "--prevalence", wrong) == 2
        assert problem in capsys.readouterr().err


def test_fewer_members_than_one_are_refused_and_more_than_there_are_is_all_of_them(trained, images, capsys):
    assert predict(trained.bundle, [images[0]], "--max-members", "0") == 2
    assert predict(trained.bundle, [images[0]], "--max-members", "9") == 0


@pytest.mark.parametrize(("given", "cores", "expected"), [(None, 1, 1), (None, 64, 3), ("2", 1, 3)])
def test_threads_are_as_many_as_a_container_leaves_and_wait_without_spinning(monkeypatch, given, cores, expected):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)  # torch has read it; it is left alone
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        limit_threads()
        assert torch.get_num_threads() == expected
        assert "OMP_WAIT_POLICY" not in os.environ
        share_cores()
        assert torch.get_num_threads() == expected
        assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    finally:
        torch.set_num_threads(before)
        monkeypatch.delenv("OMP_WAIT_POLICY")
