"""The Grafana board asks for metrics that a search, or Ray itself, serves."""

import json
import re
from pathlib import Path

import pytest
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from consilia.tune.search_metrics import COUNTERS, GAUGES

OF_A_SEARCH = {f"ray_{each.name}": each.labels for each in GAUGES}
OF_A_SEARCH |= {f"ray_{each.name}_total": each.labels for each in COUNTERS}
OF_RAY = {f"ray_{name}" for name in METRICS_GAUGES}
LABELS = {label for labels in OF_A_SEARCH.values() for label in labels}


@pytest.fixture(scope="module")
def queries(root: Path) -> list[str]:
    board = json.loads((root / "cluster" / "grafana" / "consilia.json").read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [*found, *(each["definition"] for each in board["templating"]["list"] if "definition" in each)]


def test_every_query_names_a_metric_that_is_served(queries: list[str]):
    named = [set(re.findall(r"\bray_\w+", query)) for query in queries]
    assert all(named), "a query asks for nothing"
    assert set().union(*named) - OF_A_SEARCH.keys() - OF_RAY == set()


def test_every_metric_of_a_search_is_on_the_board(queries: list[str]):
    assert [name for name in OF_A_SEARCH if not any(name in query for query in queries)] == []


def test_queries_divide_by_labels_that_their_metric_has(queries: list[str]):
    for query in queries:
        asked = set(re.findall(r"by \((\w+)\)|[{,](\w+)!?=~?", query))
        names = {one or other for one, other in asked} & LABELS
        metrics = [OF_A_SEARCH.get(name, ()) for name in re.findall(r"\bray_\w+", query)]
        assert all(name in labels for name in names for labels in metrics), query
