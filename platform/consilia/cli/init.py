"""`consilia init`: a first card and study for images of one's own, asked for or by flags."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from consilia.data.survey.choice import Choice


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(init)


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where card and study are written.")] = Path(),
    images: Annotated[Path | None, typer.Option(help="Folder of the images, or an .npz archive.")] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="TABLE", help="A CSV or Parquet file; 'folders' if their names are labels.")
    ] = None,
    path_column: Annotated[str | None, typer.Option(metavar="COLUMN", help="Names the file of the image.")] = None,
    label_column: Annotated[str | None, typer.Option(metavar="COLUMN", help="Holds the label.")] = None,
    patient_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Names the patient; none, or DICOM:PatientID.")
    ] = None,
    split_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Holds train, val or test; none to draw the test split.")
    ] = None,
    modality: Annotated[str | None, typer.Option(help="What kind of images: xray, ct, mr, histology, ...")] = None,
    join: Annotated[
        str | None, typer.Option(metavar="TAG=COLUMN", help="The DICOM identifier that rows name files by.")
    ] = None,
    unit: Annotated[str | None, typer.Option(help="Where a row names several DICOM files: file or series.")] = None,
    frames: Annotated[str | None, typer.Option(help="Of files with several: first, middle or each.")] = None,
    rare_classes: Annotated[
        str | None, typer.Option(help="Classes with too few patients for three folds: leave_out or stop.")
    ] = None,
    archive: Annotated[str | None, typer.Option(metavar="FILE", help="Which archive of a folder with several.")] = None,
    name: Annotated[str, typer.Option(help="Of the study and the card; default: the folder's.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Take every proposal; what has none must be given.")] = False,
) -> None:
    """Look at your images and labels, and write a card and a study for them.

    What was found is printed with the reason. What the data do not say is asked; without a terminal, its option must
    be given.

    Example: consilia init --images chest/images --labels chest/metadata.csv --label-column finding
    """
    import consilia

    given = {
        **{"path-column": path_column, "label-column": label_column, "patient-column": patient_column},
        **{"split-column": split_column, "modality": modality, "join": join, "unit": unit, "frames": frames},
        **{"rare-classes": rare_classes, "archive": archive},
        "images": None if images is None else str(images),
        "labels": "folders" if labels == "folders" else None,
    }
    decide = _Answers({key: value for key, value in given.items() if value is not None}, yes=yes)
    place = decide(_where(folder))
    table = None if labels in (None, "folders") else labels
    draft = consilia.draft_study(place, labels=table, name=name, decide=decide)
    decide.refuse_unused()
    for remark in draft.remarks:
        print(f"{'note':15} {remark}")
    files = consilia.write_draft(draft, folder)
    print(f"{'card':15} {files.card}\n{'study':15} {files.study}")
    print(f"Next: consilia data audit {files.card}\nThen: consilia search {files.study}")


class _Answers:
    """Answers choices by options, by what is certain, or by asking on a terminal; says which answer was taken, and why.

    Args:
        given: Answers by key.
        yes: Take every proposal.
    """

    def __init__(self, given: Mapping[str, str], *, yes: bool) -> None:
        self._given, self._yes = given, yes
        self._used: set[str] = set()

    def __call__(self, choice: "Choice") -> str:
        from consilia.errors import UserError

        if choice.key in self._given:
            self._used.add(choice.key)
            answer = self._check(choice, self._given[choice.key])
            print(f"{choice.key:15} {answer}: as given")
            return answer
        if choice.value is not None and (choice.certain or self._yes):
            print(f"{choice.key:15} {choice.value}: {choice.reason}")
            return choice.value
        if not sys.stdin.isatty():
            proposal = "" if choice.value is None else f", or --yes, which takes {choice.value!r}"
            known = f"\nOne of: {', '.join(choice.options)}." if choice.options else ""
            raise UserError(f"{choice.question}\nFound: {choice.reason}.{known}\nGive --{choice.key}{proposal}.")
        return self._ask(choice)

    def refuse_unused(self) -> None:
        """Refuse options that nothing has asked for: they would be ignored."""
        from consilia.errors import UserError

        if unused := [f"--{key}" for key in self._given if key not in self._used]:
            raise UserError(f"{', '.join(unused)}: these data leave no such choice. Leave it out.")

    def _ask(self, choice: "Choice") -> str:
        from consilia.errors import UserError

        print(f"\n{choice.question}\n  found: {choice.reason}")
        if choice.options:
            print(f"  one of: {', '.join(choice.options)}")
        while True:
            answer = str(typer.prompt(f"  {choice.key}", default=choice.value))
            try:
                return self._check(choice, answer)
            except UserError as error:
                print(f"  {error}")

    @staticmethod
    def _check(choice: "Choice", answer: str) -> str:
        from consilia.config.frozen import near_match
        from consilia.errors import UserError

        if choice.options and answer not in choice.options:
            near = near_match(answer, choice.options)
            raise UserError(f"--{choice.key} must be one of {', '.join(choice.options)}, but is {answer!r}.{near}")
        return answer


def _where(folder: Path) -> "Choice":
    """Return the choice of the images' folder; the given one is proposed where it holds something."""
    from consilia.data.survey.choice import Choice

    held = sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
    return Choice(
        key="images",
        question="Where are the images: a folder, or an .npz file?",
        value=str(folder) if held else None,
        reason=f"{folder.absolute()} holds {held} files and folders",
    )
