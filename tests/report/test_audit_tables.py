"""An audit on the terminal: findings first, numbers that are those of the record."""

import io

import pytest
from rich.console import Console

from audit_stores import alternating, four_to_one, make_audit_store, noise
from consilia.audit.document import Audit
from consilia.audit.run import audit
from consilia.report.audit_tables import count_cases, counts_table, print_audit, print_brief
from data_tables import card_of


@pytest.fixture(scope="module")
def found() -> Audit:
    pixels = noise(60)
    pixels[2], pixels[13] = pixels[0], pixels[8]
    columns = {"meta_[site]": ["A", "B"] * 30, "meta_country": ["CH"] * 60}
    store = make_audit_store(alternating(60), pixels=pixels, splits=four_to_one(60), columns=columns)
    return audit(store, card_of(None))


def printed(show, found: Audit, *, width: int = 160) -> str:
    output = io.StringIO()
    show(Console(file=output, width=width, markup=False, highlight=False), found)
    return output.getvalue()


def test_findings_come_first_then_counts_duplicates_and_shortcuts(found):
    text = printed(print_audit, found)
    places = [text.index(each) for each in ("error", "Images by class", "Duplicates", "What predicts")]
    assert places == sorted(places)
    assert text.startswith("made: 60 images, 60 patients")


def test_names_with_brackets_are_printed_as_they_are(found):
    assert "[site]" in printed(print_audit, found)


def test_what_was_not_tried_is_said_with_the_reason(found):
    assert "country, always 'CH'" in printed(print_audit, found)


def test_a_narrow_terminal_cuts_no_finding(found):
    words = " ".join(printed(print_audit, found, width=60).replace("│", " ").split())
    assert "on_leak: drop_train" in words.replace(" ` ", "`")


def test_the_brief_form_has_one_line_a_finding_and_leads_to_the_rest(found):
    lines = printed(print_brief, found, width=40).splitlines()
    assert len(lines) == len(found.findings) + 1
    assert all(each.sentence in line for each, line in zip(found.findings, lines, strict=False))
    assert "consilia data audit" in lines[-1]


def test_cases_are_counted_by_what_is_wrong_with_them(found):
    assert count_cases(found.duplicates.exact) == {
        "all": 2,
        "images": 4,
        "across test": 1,
        "across other splits": 0,
        "label conflicts": 1,
    }


def rows_of(table) -> list[list[str]]:
    output = io.StringIO()
    Console(file=output, width=300, markup=False).print(table)
    lines = [line for line in output.getvalue().splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]


def test_counts_have_totals_and_zeros():
    counts = {"train": {"clear": 3, "nodule": 2}, "test": {"clear": 1}}
    assert rows_of(counts_table(counts, title="mine")) == [
        ["clear", "3", "1"],
        ["nodule", "2", "0"],
        ["all", "5", "1"],
    ]
