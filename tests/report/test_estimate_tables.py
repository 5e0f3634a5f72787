"""Numbers on the terminal are those of the records, with their intervals and what they describe."""

import io

from rich.console import Console

from consilia.metrics.estimates import Estimate, HonestReport, HonestRow
from consilia.metrics.paired import PairedMetric
from consilia.metrics.subgroups import Subgroup, Subgroups
from consilia.report.estimate_tables import comparison_table, honesty_table, subgroups_table


def printed(table, *, width=200):
    output = io.StringIO()
    Console(file=output, width=width, markup=False, highlight=False).print(table)
    return output.getvalue()


def estimate(value):
    return Estimate(value=value, low=value - 0.1, high=value + 0.1)


def test_the_honest_report_has_a_line_a_row_and_says_what_it_describes():
    rows = tuple(
        HonestRow(
            kind=kind,
            predictor=f"about {kind}",
            images=1234,
            patients=567,
            metrics={"log_loss": estimate(value), "macro_auc": None},
        )
        for kind, value in (("best_single", 0.3), ("bias_corrected", 0.4567), ("test", 0.5))
    )
    text = printed(honesty_table(HonestReport(trials=75, candidates=30, draws=200, rows=rows)))
    assert "75 trials, 30 of them finished" in text
    for each in ("about best_single", "about bias_corrected", "1,234 images", "0.4567", "0.357 ... 0.557", "undefined"):
        assert each in text
    assert text.index("best trial") < text.index("BBC-CV") < text.index("locked test split")


def test_a_comparison_shows_both_sides_the_difference_and_the_verdict():
    better = PairedMetric(
        metric="log_loss", first=estimate(0.3), second=estimate(0.5), difference=estimate(-0.2), verdict="better"
    )
    unknown = PairedMetric(metric="macro_auc", first=None, second=None, difference=None, verdict="cannot be told")
    text = printed(comparison_table([better, unknown], title="80 images"))
    for each in (
        "80 images",
        "0.3000 (0.2000 ... 0.4000)",
        "-0.2000 (-0.3000 ... -0.1000)",
        "better",
        "cannot be told",
    ):
        assert each in text


def test_the_printed_difference_is_that_of_the_printed_numbers_or_of_their_distances_from_0():
    def paired(metric, first, second, difference):
        return PairedMetric(
            metric=metric,
            first=estimate(first),
            second=estimate(second),
            difference=estimate(difference),
            verdict="cannot be told",
        )

    gap = paired("signed_gap", -0.00094, -0.02706, 0.00094 - 0.02706)
    text = printed(comparison_table([gap, paired("log_loss", 0.30004, 0.20006, 0.09998)], title="80 images"))
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if line.startswith("│")}
    assert "-0.0009 (" in rows["confidence minus accuracy"]
    assert "-0.0262" not in rows["confidence minus accuracy"]
    assert [cell.strip() for cell in rows["its distance from 0"].split("│")[2:4]] == ["0.0009", "0.0271"]
    assert "-0.0262 (" in rows["its distance from 0"]
    assert "0.0999 (" in rows["log loss"]  # 0.3000 - 0.2001


def test_every_table_of_numbers_names_its_weighting():
    report = HonestReport(trials=2, candidates=1, draws=2, rows=())
    for table in (honesty_table(report), subgroups_table(Subgroups(column="a", groups=()))):
        assert "every image weighs the same" in " ".join(printed(table).split())


def test_groups_show_their_gap_where_they_are_worse_and_warnings():
    bad = Subgroup(
        name="[b]",
        images=100,
        patients=50,
        by_class={"clear": 50, "nodule": 50},
        metrics={"accuracy": estimate(0.6), "macro_auc": None},
        gaps={"accuracy": estimate(-0.3), "macro_auc": None},
        worse=("accuracy",),
        warnings=("no image of class x",),
    )
    text = printed(subgroups_table(Subgroups(column="site", groups=(bad,))))
    for each in (
        "By site",
        "[b]",
        "0.600 (0.500 ... 0.700)",
        "-0.300 (-0.400 ... -0.200)",
        "worse: accuracy",
        "no image",
    ):
        assert each in text
