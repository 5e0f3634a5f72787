"""HTML for notebooks: facts in two columns, and a table below them."""

from collections.abc import Mapping

import jinja2
import pandas as pd

MOST_ROWS = 20  # that a notebook shows of a table

_PAGE = jinja2.Environment(autoescape=True).from_string(
    """<div class="consilia"><strong>{{ title }}</strong>
<table>{% for name, fact in facts.items() %}
<tr><th style="text-align: left">{{ name }}</th><td style="text-align: left">{{ fact }}</td></tr>{% endfor %}
</table>{{ table | safe }}{% if left_out %}
<p>and {{ left_out }} more rows</p>{% endif %}</div>"""
)


def show_facts(title: str, facts: Mapping[str, str], *, table: pd.DataFrame | None = None, n_rows: int = 0) -> str:
    """Return HTML in which every text is escaped; facts that are empty are left out.

    Args:
        title: Stands above.
        facts: By name.
        table: Its first rows are shown below.
        n_rows: That the table has, where `table` holds the first of them alone.
    """
    shown = None if table is None else table.head(MOST_ROWS)
    with pd.option_context("display.max_colwidth", None):
        html = (
            "" if shown is None else shown.to_html(index=False, na_rep="", float_format="{:.4g}".format, justify="left")
        )
    left_out = max(0, n_rows - (0 if shown is None else len(shown)))
    known = {name: fact for name, fact in facts.items() if fact}
    return _PAGE.render(title=title, facts=known, table=html, left_out=left_out)
