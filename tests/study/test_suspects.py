"""Labels that a finished study doubts, for people to look at."""

import csv

import numpy as np
from PIL import Image

from consilia.cli.app import run
from consilia.data.folds import load_folds
from consilia.data.store.prepare import prepare
from consilia.train.tables import read_fold_logits, write_out_of_fold


def suspects(trained, out) -> list[dict[str, str]]:
    arguments = ["--studies", str(trained.studies), "--stores", str(trained.stores), "--out", str(out)]
    assert run(["suspects", trained.folder.root.name, *arguments]) == 0
    with (out / "suspects.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def make_sure(trained, store, *, wrong: list[int]) -> None:
    """Let the trial be sure of the label of every image, and of another class for a few."""
    for fold in range(2):
        path = trained.folder.trial(0).fold(fold).oof
        images, logits = read_fold_logits(path)
        sure = np.eye(logits.shape[1], dtype=np.float32)[store.labels[images]]
        others = np.isin(images, wrong)
        sure[others] = np.roll(sure[others], 1, axis=1)
        write_out_of_fold(path, images, 4 * sure)


def test_images_that_the_trials_see_otherwise_are_listed_with_their_pictures(trained_copy, tmp_path, capsys):
    store = prepare(trained_copy.plan.data, root=trained_copy.stores)
    wrong = load_folds(trained_copy.folder.folds).pool[[3, 17]].tolist()
    make_sure(trained_copy, store, wrong=wrong)
    rows = suspects(trained_copy, tmp_path / "out")
    assert sorted(row["image"] for row in rows) == sorted(store.index["file"].iloc[wrong])
    for row in rows:
        image = store.index.index[store.index["file"] == row["image"]][0]
        label = int(store.labels[image])
        assert row["label"] == store.classes[label]
        assert row["looks_like"] == store.classes[(label + 1) % len(store.classes)]
        assert float(row[f"p_{row['looks_like']}"]) > float(row[f"p_{row['label']}"])
    assert "2 of" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "suspects.png") as sheet:
        assert sheet.width > sheet.height / 2


def test_without_a_doubt_there_is_an_empty_table_and_no_sheet(trained_copy, tmp_path):
    make_sure(trained_copy, prepare(trained_copy.plan.data, root=trained_copy.stores), wrong=[])
    assert suspects(trained_copy, tmp_path) == []
    assert not (tmp_path / "suspects.png").exists()
