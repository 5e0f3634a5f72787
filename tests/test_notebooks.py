"""Every cell of every notebook runs, and none is committed with output."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
DEMO = "../demo/studies/phantoms/ensembles/greedy_calibrated"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_run_from_top_to_bottom(notebook: Path, trained, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(notebook.parent)
    names: dict[str, object] = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]).replace(DEMO, str(trained.bundle)), names)
    assert list(names["compared"]["truth"]) == list(names["truth"])
    assert set(names["compared"]["label"]) <= set(names["predictor"].classes)
