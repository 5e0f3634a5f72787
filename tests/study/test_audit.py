"""`consilia data audit` and the end of `prepare`: files, exit codes, what is printed."""

import pytest

from consilia.audit.document import read_audit
from consilia.cli.app import run
from consilia.study.cards import audit_card
from data_tables import balanced, shipped_card, write_table


@pytest.fixture
def leaking(tmp_path):
    """A folder of images whose last training image is a copy of a test image."""
    rows = [entry | {"split": "test" if number % 5 == 0 else "train"} for number, entry in enumerate(balanced(40, 1))]
    folder = write_table(tmp_path / "leaking", rows)
    (folder / "039.png").write_bytes((folder / "005.png").read_bytes())
    card = tmp_path / "leaking.yaml"
    card.write_text(
        f"name: leaking\npath: {folder}\nsize: 12\n"
        "source: {kind: table, columns: {patient: patient, split: split}}\n",
        encoding="utf-8",
    )
    return card


def test_both_files_lie_below_the_stores_under_card_and_digest(phantoms, tmp_path):
    card = shipped_card("phantoms", path=str(phantoms), size=32)
    files = audit_card(card, stores=tmp_path / "stores")
    assert files.json == tmp_path / "stores" / "audits" / f"phantoms-{files.audit.digest[:16]}" / "audit.json"
    assert read_audit(files.json) == files.audit
    assert files.page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_place_of_the_files_can_be_chosen_and_a_second_audit_is_equal(phantoms, tmp_path):
    card = shipped_card("phantoms", path=str(phantoms), size=32)
    first = audit_card(card, stores=tmp_path / "stores", out=tmp_path / "out")
    before = first.json.read_bytes(), first.page.read_bytes()
    again = audit_card(card, stores=tmp_path / "stores", out=tmp_path / "out")
    assert (again.json.read_bytes(), again.page.read_bytes()) == before
    assert not (tmp_path / "stores" / "audits").exists()


def test_the_command_returns_1_for_a_leak_and_names_the_files(leaking, tmp_path, capsys):
    assert run(["data", "audit", str(leaking), "--stores", str(tmp_path / "stores")]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 group of exact duplicates across the test split and the rest" in printed
    assert "005.png" in printed
    assert "audit.html" in printed


def test_the_command_returns_0_without_an_error(phantoms, tmp_path, capsys):
    arguments = ["phantoms", "--set", f"path={phantoms}", "--set", "size=32", "--stores", str(tmp_path / "stores")]
    assert run(["data", "audit", *arguments]) == 0
    assert "0 errors" in capsys.readouterr().out


def test_prepare_prints_the_leak_and_points_to_the_audit(leaking, tmp_path, capsys):
    assert run(["data", "prepare", str(leaking), "--stores", str(tmp_path / "stores")]) == 0
    printed = capsys.readouterr().out
    assert "across the test split and the rest" in printed
    assert "consilia data audit" in printed
