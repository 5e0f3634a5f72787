"""Every figure is written as a drawing people can open and as the numbers behind it."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from consilia.cli.app import run
from consilia.config.card import DataCard, FolderSource
from consilia.data.phantoms import write_phantoms
from consilia.data.store.prepare import prepare
from consilia.errors import DataError
from consilia.predict.loading import load_predictor
from consilia.report.figures import Shown, draw_figures
from consilia.study.measure import positive_class, write_figures

ONE_MEMBER = {"reliability", "roc", "precision_recall", "risk_coverage", "confusion"}


def test_figures_of_other_images_are_files_whose_numbers_are_the_predictor_s(trained_copy, tmp_path):
    path = write_phantoms(tmp_path / "others", patients=24, size=32, seed=7)
    card = trained_copy.plan.data.model_copy(update={"path": str(path)})
    out = tmp_path / "figures"
    drawn = write_figures(trained_copy.bundle, card, stores=trained_copy.stores, out=out, device="cpu")
    written = drawn.files
    assert drawn.notes == ()
    assert {path.name for path in written} == {
        f"{name}.{kind}" for name in ONE_MEMBER for kind in ("svg", "png", "parquet")
    }
    assert {path.name for path in out.iterdir()} == {path.name for path in written}
    for name in ONE_MEMBER:
        assert "<svg" in (out / f"{name}.svg").read_text()
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) > 300
    store = prepare(card, root=trained_copy.stores)
    rows = np.flatnonzero((store.index["split"] == "test").to_numpy())
    rows = rows if len(rows) else np.arange(len(store))
    found = load_predictor(trained_copy.bundle, device="cpu").predict_store(store, rows)
    counts = pd.read_parquet(out / "confusion.parquet").to_numpy()
    expected = np.zeros_like(counts)
    np.add.at(expected, (store.labels[rows], found.argmax(axis=1)), 1)
    np.testing.assert_array_equal(counts, expected)


def test_several_members_are_compared_too(tmp_path):
    generator = np.random.default_rng(0)
    members = generator.dirichlet(np.ones(3), size=(2, 60))
    shown = Shown(
        probabilities=members.mean(axis=0),
        labels=np.arange(60) % 3,
        patients=np.arange(60).astype(str),
        classes=("a", "b", "c"),
        members=members,
        weights=np.array([0.4, 0.6]),
        trials=(3, 8),
        title="drawn",
    )
    drawings = dict(draw_figures(shown))
    assert set(drawings) == ONE_MEMBER | {"error_correlation", "loss_by_size"}
    assert drawings["loss_by_size"].numbers["members"].tolist() == [1, 2]
    assert drawings["error_correlation"].numbers.index.tolist() == ["trial 3", "trial 8"]
    assert set(drawings["roc"].numbers["class"]) == {"a", "b", "c"}


def shown_pair(**changes):
    second = np.random.default_rng(0).uniform(size=80)
    probabilities = np.stack([1 - second, second], axis=1)
    labels = (np.random.default_rng(1).random(80) < second).astype(np.int64)
    content = {
        "probabilities": probabilities,
        "labels": labels,
        "patients": np.arange(80).astype(str),
        "classes": ("covid", "normal"),
        "members": np.stack([probabilities] * 2),
        "weights": np.array([0.5, 0.5]),
        "trials": (0, 1),
        "title": "a-data-set-of-a-rather-long-name-2026, test (opened before): 1,234 images of 1,089 patients",
    }
    return Shown(**(content | changes))


@pytest.mark.parametrize("positive", [0, 1])
def test_curves_of_two_classes_are_of_the_positive_one_and_name_it(positive):
    shown = shown_pair(positive=positive)
    drawings = dict(draw_figures(shown))
    for name in ("roc", "precision_recall"):
        assert set(drawings[name].numbers["class"]) == {shown.classes[positive]}
        assert f"positive: {shown.classes[positive]}" in drawings[name].figure.get_suptitle()
    assert drawings["precision_recall"].numbers["precision"].iloc[-1] >= np.mean(shown.labels == positive) - 1e-9


def test_titles_fit_into_their_figures_and_say_whether_patients_are_weighted():
    drawings = dict(draw_figures(shown_pair(classes=("benign", "malignant_of_any_kind_that_is_known_to_us"))))
    for drawing in drawings.values():
        renderer = FigureCanvasAgg(drawing.figure).get_renderer()
        drawing.figure.draw(renderer)
        (title,) = drawing.figure.texts
        extent, whole = title.get_window_extent(renderer), drawing.figure.bbox
        assert 0 <= extent.x0 < extent.x1 <= whole.width
        assert drawing.figure.axes[0].get_window_extent(renderer).y1 <= extent.y0
        assert extent.y1 <= whole.height
    for name in ("risk_coverage", "loss_by_size"):
        assert "every patient weighs the same" in " ".join(drawings[name].figure.get_suptitle().split())


def test_the_positive_class_is_the_card_s_or_the_rarer():
    card = DataCard(name="card", source=FolderSource())
    store = SimpleNamespace(labels=np.array([0, 0, 1, 1, 1]), classes=("sick", "well"))
    assert positive_class(card, store) == 0
    assert positive_class(card.model_copy(update={"positive": "well"}), store) == 1
    even = SimpleNamespace(labels=np.array([0, 1]), classes=("a", "b"))
    assert positive_class(card, even) == 1
    with pytest.raises(DataError, match="positive must be one of the classes sick, well, but got 'ill'"):
        positive_class(card.model_copy(update={"positive": "ill"}), store)


def test_training_images_are_refused_before_anything_is_written(trained_copy, phantoms_copy, tmp_path):
    table = phantoms_copy / "metadata.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[: len(lines) // 2]))
    columns = trained_copy.plan.data.source.columns.model_copy(update={"split": None})
    source = trained_copy.plan.data.source.model_copy(update={"columns": columns})
    card = trained_copy.plan.data.model_copy(update={"path": str(phantoms_copy), "source": source})
    with pytest.raises(DataError, match="were in the training"):
        write_figures(trained_copy.bundle, card, stores=trained_copy.stores, out=tmp_path / "f", device="cpu")
    assert not (tmp_path / "f").exists()


def test_the_command_lists_what_it_wrote(trained_copy, tmp_path, capsys):
    path = write_phantoms(tmp_path / "others", patients=24, size=32, seed=7)
    arguments = ["--set", f"path={path}", "--out", str(tmp_path / "figures"), "--stores", str(trained_copy.stores)]
    card = tmp_path / "card.yaml"
    card.write_text(trained_copy.plan.data.model_dump_json())
    assert run(["figures", str(trained_copy.bundle), str(card), *arguments, "--device", "cpu"]) == 0
    assert str(tmp_path / "figures" / "roc.svg") in capsys.readouterr().out
