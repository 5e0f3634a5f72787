"""Figures inside a page: several do not clash, and their ink is the page's."""

import re

from matplotlib.figure import Figure

from consilia.report.svg import inline_svg, page_style
from html_pages import Page


def drawn(name: str) -> str:
    with page_style():
        figure = Figure()
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], "o-", label="$a$ <b>")
        axes.legend()
    return inline_svg(figure, name=name, title="A & B", description="<what>")


def test_two_figures_of_a_page_share_no_identifier():
    one, two = Page(drawn("one")), Page(drawn("two"))
    assert set(one.values("id")).isdisjoint(two.values("id"))
    for page, text in ((one, drawn("one")), (two, drawn("two"))):
        referred = re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', text)
        assert referred
        assert set(referred) <= set(page.values("id"))


def test_text_stays_text_and_is_escaped():
    page = Page(drawn("one"))
    assert "$a$ <b>" in page.words
    assert "A & B" in page.words
    assert page.all_of("b") == []


def test_ink_follows_the_page_and_nothing_is_filled_with_white():
    text = drawn("one")
    assert "currentColor" in text
    assert "#123457" not in text
    assert "#ffffff" not in text


def test_equal_figures_give_equal_bytes_without_a_date_or_an_address():
    assert drawn("one") == drawn("one")
    assert not re.search(r"xmlns|https?:|<metadata|<\?xml|dc:date", drawn("one"))
