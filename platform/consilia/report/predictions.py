"""Predictions as a table on the terminal or as a CSV; an image with an error keeps its row."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from consilia.config.records import Prediction
from consilia.files import write_atomically
from consilia.predict.predictions import prediction_columns, prediction_row
from consilia.report.console import make_console

REJECTED = "rejected: unlike the training images"
Row = tuple[str, Prediction | Exception]  # the image's name


def print_predictions(rows: Iterable[Row], classes: Sequence[str]) -> int:
    """Print one row per image, and the errors to standard error.

    Returns:
        Number of images with an error.
    """
    table = Table(Column("image", overflow="fold"), "label", "confidence", *classes, "look at it yourself")
    errors = []
    for name, result in rows:
        if isinstance(result, Exception):
            errors.append(str(result))
            table.add_row(name, "error")
        else:
            numbers = (f"{result.probabilities[each]:.3f}" for each in classes)
            table.add_row(name, _label(result), f"{result.confidence:.3f}", *numbers, "; ".join(result.review))
    make_console().print(table)
    for error in errors:
        make_console(stderr=True).print(error, soft_wrap=True)
    return len(errors)


def write_predictions(rows: Iterable[Row], classes: Sequence[str], path: Path) -> tuple[int, int]:
    """Write one row per image, in order.

    Columns: those of `predict.predictions.prediction_columns`, and error. The `unusual` of a rejected image says in
    words that it is unlike the training images.

    Returns:
        Number of images, and of those with an error.
    """
    n_images = n_errors = 0

    def write(temporary: Path) -> None:
        nonlocal n_images, n_errors
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*prediction_columns(classes), "error"])
            writer.writeheader()
            for image, result in rows:
                n_images += 1
                n_errors += isinstance(result, Exception)
                writer.writerow(_row(image, result))

    write_atomically(path, write)
    return n_images, n_errors


def _label(prediction: Prediction) -> str:
    """Return the label for a table, where the label of a rejected image must not be read as a finding."""
    if prediction.unusual is not None and prediction.unusual.state == "rejected":
        return f"rejected ({prediction.label})"
    return prediction.label


def _row(image: str, result: Prediction | Exception) -> dict[str, Any]:
    if isinstance(result, Exception):
        return {"image": image, "error": str(result)}
    row = prediction_row(image, result)
    return row | {"unusual": REJECTED} if row["unusual"] == "rejected" else row
