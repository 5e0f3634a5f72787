"""Where images and labels lie: an archive, a table beside images, or a folder for each class."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from consilia.data.sources.folder import IMAGE_SUFFIXES
from consilia.data.sources.label_table import read_rows
from consilia.data.sources.listing import SPLITS
from consilia.data.survey.choice import Choice, Decide
from consilia.data.survey.columns import PathColumn, find_path_columns
from consilia.errors import DataError

FOLDERS = "folders"  # answers that the folders' names are the labels

_TABLE_SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a data set lies."""

    root: Path  # what the card will call `path`: a folder, or an .npz file
    files: tuple[str, ...] = ()  # below `root`, images and others; empty of an archive
    table: Path | None = None  # None: the folders' names are the labels, or the archive holds them
    cells: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of the table, by column
    paths: tuple[PathColumn, ...] = ()  # the table's columns that name files, the best first


def find_layout(images: Path, labels: Path | None, decide: Decide) -> Layout:
    """Find out how images and labels lie to each other.

    Args:
        images: A folder, or an .npz file.
        labels: The table; None: one is looked for in the images' folder and the one above.
        decide: Is asked where several tables, or a table and folders, could hold the labels.

    Raises:
        DataError: There is nothing there, or nothing that could be labels.
    """
    images = images.expanduser().absolute()
    if images.suffix.lower() == ".npz" and images.is_file():
        return Layout(root=images)
    if not images.is_dir():
        raise DataError(f"{images} must be a folder of images or an .npz file, but {_what_is(images)}.")
    files = _files_below(images)
    archives = [file for file in files if file.lower().endswith(".npz")]
    if archives and not any(_is_image(file) for file in files):
        return Layout(root=images / decide(_which_archive(images, archives)))
    if labels is None:
        return _without_a_named_table(images, files, decide)
    table = labels.expanduser().absolute()
    if not table.is_file():
        raise DataError(f"{table} must be a CSV or Parquet file, but {_what_is(table)}.")
    return _beside(table, images, files)


def _without_a_named_table(images: Path, files: Sequence[str], decide: Decide) -> Layout:
    tables = [path for folder in (images, images.parent) for path in sorted(folder.iterdir()) if _is_table(path)]
    fitting = [layout for layout in (_try_beside(table, images, files) for table in tables) if layout.paths]
    classes = _class_folders(files)
    if not fitting and not classes:
        raise DataError(
            f"{images} must hold a folder for each class, or lie beside a CSV or Parquet table that names its images, "
            f"but it holds {len(files)} files and neither. Name the table: --labels FILE."
        )
    by_name = {str(layout.table): layout for layout in fitting}
    if not fitting:
        decide(_folders_alone(images, classes))
        return Layout(root=images, files=tuple(files))
    best = max(fitting, key=lambda layout: layout.paths[0].n_found)
    found = best.paths[0]
    choice = Choice(
        key="labels",
        question="Which table holds the labels?" + (f" {FOLDERS!r} if the folders' names do." if classes else ""),
        value=str(best.table),
        reason=f"{found.n_found} of {len(best.cells[found.column])} cells of its column {found.column} name images",
        certain=len(fitting) == 1 and not classes,
        options=(*by_name, *((FOLDERS,) if classes else ())),
    )
    answer = decide(choice)
    return Layout(root=images, files=tuple(files)) if answer == FOLDERS else by_name[answer]


def _folders_alone(images: Path, classes: Counter[str]) -> Choice:
    held = ", ".join(f"{name} ({count})" for name, count in sorted(classes.items()))
    return Choice(
        key="labels",
        question="Where are the labels?",
        value=FOLDERS,
        reason=f"no table names the images of {images}, and its folders hold images: {held}",
        certain=True,
        options=(FOLDERS,),
    )


def _which_archive(images: Path, archives: Sequence[str]) -> Choice:
    return Choice(
        key="archive",
        question="Which archive?",
        value=archives[0] if len(archives) == 1 else None,
        reason=f"{images} holds {', '.join(archives[:10])} and no images",
        certain=len(archives) == 1,
        options=tuple(archives),
    )


def _try_beside(table: Path, images: Path, files: Sequence[str]) -> Layout:
    """Return the layout of a table that nobody has named; without columns of paths where it is of another kind."""
    try:
        return _beside(table, images, files)
    except DataError:
        return Layout(root=images)


def _beside(table: Path, images: Path, files: Sequence[str]) -> Layout:
    root = Path(os.path.commonpath([table.parent, images]))
    below = images.relative_to(root)
    from_root = tuple((below / file).as_posix() for file in files)
    rows = [row for _, row in read_rows(table)]
    if not rows:
        raise DataError(f"{table} must have rows below its header, but has none.")
    cells = {name: [row[name] for row in rows] for name in rows[0]}
    return Layout(
        root=root, files=from_root, table=table, cells=cells, paths=tuple(find_path_columns(cells, from_root))
    )


def _class_folders(files: Sequence[str]) -> Counter[str]:
    """Return how many images lie in each folder that could be a class; none where fewer than two are."""
    inner = [PurePosixPath(file).parts[:-1] for file in files if _is_image(file)]
    names = [parts[1:] if len(parts) > 1 and parts[0] in SPLITS else parts for parts in inner]
    counts = Counter("/".join(parts) for parts in names if parts)
    return counts if len(counts) > 1 else Counter()


def _files_below(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    below = (path.relative_to(folder) for path in found)
    return sorted(path.as_posix() for path in below if not any(part.startswith(".") for part in path.parts))


def _is_image(file: str) -> bool:
    return file.lower().endswith(IMAGE_SUFFIXES)


def _is_table(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in _TABLE_SUFFIXES and not path.name.startswith(".")


def _what_is(path: Path) -> str:
    return "it is of another kind" if path.exists() else "it does not exist"
