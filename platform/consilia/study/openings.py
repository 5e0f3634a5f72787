"""The locked test split is opened once per ensemble, and every opening is written down."""

import json
from datetime import UTC, datetime

from consilia.folder import StudyFolder
from consilia.plan.ensemble import EnsembleRecipe


def log_opening(folder: StudyFolder, recipe: EnsembleRecipe) -> None:
    """Write down that the locked test split was opened, before it is. Source: docs/methods.md section 1."""
    line = {"opened": datetime.now(UTC).isoformat(timespec="seconds"), "for": recipe.model_dump(mode="json")}
    with folder.test_openings.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
