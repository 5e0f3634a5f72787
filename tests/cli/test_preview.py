"""`consilia data preview`: a picture of what the network sees, and the policy in words."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from consilia.cli.app import run


def preview(phantoms: Path, stores: Path, *more: str) -> int:
    return run(["data", "preview", "phantoms", "--set", f"path={phantoms}", "--stores", str(stores), *more])


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return tmp_path_factory.mktemp("stores")


def test_a_picture_is_written_and_the_policy_is_said(phantoms, stores, tmp_path, capsys):
    out = tmp_path / "new" / "look.png"
    assert preview(phantoms, stores, "--out", str(out)) == 0
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.width > 5 * 128
    printed = capsys.readouterr().out
    assert "Augmentation of xray" in printed
    assert "up to 8 degrees" in printed
    assert str(out) in printed


def test_the_strength_scales_what_is_said_and_done(phantoms, stores, tmp_path, capsys):
    weak, none = tmp_path / "weak.png", tmp_path / "none.png"
    assert preview(phantoms, stores, "--strength", "0.25", "--out", str(weak)) == 0
    assert "up to 2 degrees" in capsys.readouterr().out
    assert preview(phantoms, stores, "--strength", "0", "--out", str(none)) == 0
    sheet = np.asarray(Image.open(none))
    original, first_draw = sheet[14 : 14 + 128, 6 : 6 + 128], sheet[14 : 14 + 128, 152 : 152 + 128]
    assert (first_draw == original).all()
    assert original.std() > 10
    assert (np.asarray(Image.open(weak)) != np.asarray(Image.open(none))).any()


def test_without_a_name_it_lies_beside_the_stores(phantoms, stores, capsys):
    assert preview(phantoms, stores, "--image", "3") == 0
    (picture,) = (stores / "previews").iterdir()
    assert picture.name.startswith("phantoms-")
    assert picture.name.endswith("-3.png")
    assert str(picture) in capsys.readouterr().out


def test_an_image_that_is_not_there_is_named_with_those_that_are(phantoms, stores, capsys):
    assert preview(phantoms, stores, "--image", "100000") == 2
    assert "are numbered 0 ..." in capsys.readouterr().err


def test_a_name_that_is_no_png_is_refused_before_anything_is_decoded(phantoms, tmp_path, capsys):
    assert preview(phantoms, tmp_path / "stores", "--out", "look.jpg") == 2
    assert "must end in .png" in capsys.readouterr().err
    assert not (tmp_path / "stores").exists()
