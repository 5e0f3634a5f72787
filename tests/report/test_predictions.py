"""Predictions as a CSV and as a table; an image with an error keeps its row."""

import csv

import pandas as pd
import pytest

from consilia.config.records import OodVerdict, Prediction
from consilia.errors import ReaderError
from consilia.predict.predictions import Predictions
from consilia.report.predictions import print_predictions, write_predictions

CLASSES = ("clear", "[b]odd")


def prediction(confidence: float, unusual: OodVerdict | None = None) -> Prediction:
    probabilities = {"clear": confidence, "[b]odd": 1 - confidence}
    return Prediction(
        label="clear",
        confidence=confidence,
        probabilities=probabilities,
        prediction_set=CLASSES,
        review=("may be clear or [b]odd", "confidence is low"),
        unusual=unusual,
    )


ROWS = [
    ("a, with comma.png", prediction(0.75)),
    ("scan[/].png", ReaderError("scan[/].png: the file is empty (0 bytes).")),
    ("größe.png", prediction(1 / 3)),
]


def test_the_csv_is_read_back_with_every_digit(tmp_path):
    path = tmp_path / "below" / "p.csv"
    assert write_predictions(iter(ROWS), CLASSES, path) == (3, 1)
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    notes = ["unusual", "unusual_p_value", "prediction_set", "review"]
    assert header == ["image", "label", "confidence", *notes, "probability_clear", "probability_[b]odd", "error"]
    assert [row[0] for row in rows] == [image for image, _ in ROWS]
    assert [float(rows[2][column]) for column in (2, 7, 8)] == [1 / 3, 1 / 3, 1 - 1 / 3]
    assert rows[2][3:7] == ["", "", "clear;[b]odd", "may be clear or [b]odd; confidence is low"]
    assert rows[2][9] == ""
    assert rows[1] == ["scan[/].png", *[""] * 8, "scan[/].png: the file is empty (0 bytes)."]


def test_the_csv_has_the_columns_and_values_of_the_frame(tmp_path):
    rows = [ROWS[0], ROWS[2], ("odd.png", prediction(0.2, OodVerdict(state="unusual", p_value=0.005, part="edges")))]
    write_predictions(rows, CLASSES, tmp_path / "p.csv")
    frame = Predictions(*zip(*rows, strict=True)).to_frame()
    found = pd.read_csv(tmp_path / "p.csv")
    assert found.pop("error").isna().all()
    pd.testing.assert_frame_equal(found, frame, check_dtype=False)


def test_a_rejected_image_keeps_its_numbers_and_is_marked_where_nobody_can_miss_it(tmp_path, capsys):
    states = ("usual", "unusual", "rejected")
    rows = [
        (f"{state}.png", prediction(0.75, OodVerdict(state=state, p_value=0.0005, part="edges"))) for state in states
    ]
    write_predictions(rows, CLASSES, tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [row["unusual"] for row in found] == ["usual", "unusual", "rejected: unlike the training images"]
    assert {(row["label"], row["probability_clear"], row["unusual_p_value"]) for row in found} == {
        ("clear", "0.75", "0.0005")
    }
    print_predictions(rows, CLASSES)
    assert capsys.readouterr().out.count("rejected (clear)") == 1


def test_a_stream_that_breaks_leaves_the_older_file(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("older")

    def rows():
        yield ROWS[0]
        raise RuntimeError("the network is gone")

    with pytest.raises(RuntimeError, match="gone"):
        write_predictions(rows(), CLASSES, path)
    assert [each.name for each in tmp_path.iterdir()] == ["p.csv"]
    assert path.read_text() == "older"


def test_the_table_shows_names_as_they_are_and_errors_go_to_stderr(capsys):
    assert print_predictions(iter(ROWS), CLASSES) == 1
    printed = capsys.readouterr()
    for name in ("a, with comma.png", "scan[/].png", "größe.png", "[b]odd"):
        assert name in printed.out
    assert "0.750" in printed.out
    assert printed.err == "scan[/].png: the file is empty (0 bytes).\n"


def test_a_long_name_is_not_cut(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    name = "x" * 90 + ".png"
    print_predictions([(name, prediction(0.5))], CLASSES)
    cells = [line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert "".join(cells) == name
