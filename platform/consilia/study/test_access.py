"""The locked test split is opened once per ensemble, and every opening is written down."""

import json
from datetime import UTC, datetime
from typing import Any

from consilia.bundle.document import BundleDocument
from consilia.config.study_folder import StudyFolder
from consilia.errors import StudyError


def log_opening(folder: StudyFolder, document: BundleDocument) -> str:
    """Write down that the locked test split was opened, before it is. Source: docs/methods.md section 8.

    Args:
        folder: Of the study.
        document: Of the ensemble that it is opened for.

    Returns:
        What a reader must know of earlier openings for other ensembles; "" where there was none. Whoever builds a
        second ensemble after seeing the test of the first may have chosen by it, even without wanting to.

    Raises:
        StudyError: The list of openings is damaged; names file and line.
    """
    earlier = _read_openings(folder)
    recipe = document.provenance.recipe
    line = {
        "opened": datetime.now(UTC).isoformat(timespec="seconds"),
        "for": recipe.model_dump(mode="json"),
        "members": {str(member.trial): member.weight for member in document.members},
    }
    with folder.test_openings.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    choice = ("for", "members")
    others = [each for each in earlier if any(each.get(key) != line[key] for key in choice)]
    if not others:
        return ""
    listed = ", ".join(dict.fromkeys(f"{each['for']['name']} on {each['opened'][:10]}" for each in others))
    return (
        f"The test split was not locked any more: it had been opened before for another choice ({listed}). Numbers on "
        "it are honest only if nothing was changed because of that."
    )


def _read_openings(folder: StudyFolder) -> list[dict[str, Any]]:
    if not folder.test_openings.exists():
        return []
    openings = []
    for number, text in enumerate(folder.test_openings.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            line: dict[str, Any] = json.loads(text)
            recipe = {"build": "max", **line["for"], "name": str(line["for"]["name"])}  # older ones know one build
            openings.append({**line, "for": recipe, "opened": str(line["opened"])})
        except (ValueError, KeyError, TypeError) as error:
            raise StudyError(
                f"{folder.test_openings}, line {number}: every opening of the test split must stay readable, but: "
                f"{error}. Restore the line, so that no opening is left out of the count."
            ) from error
    return openings
