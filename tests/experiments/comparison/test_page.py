"""The report's small document, rendered both ways."""

from experiments.comparison.report.page import (
    Block,
    Bullets,
    Figure,
    Heading,
    Paragraph,
    Table,
    to_html,
    to_markdown,
)

BLOCKS: list[Block] = [
    Heading(1, "A < B"),
    Paragraph("**bold** and `code` & more"),
    Bullets(["one", "two"]),
    Table(["game", "verdict", "score"], [["Pong|x", "better", "1,000 (2 to 3)"]]),
    Figure("curve", "What is shown."),
]


def test_markdown():
    assert to_markdown(BLOCKS, "figures") == (
        "# A < B\n\n**bold** and `code` & more\n\n- one\n- two\n\n"
        "| game | verdict | score |\n| --- | --- | ---: |\n"
        "| Pong\\|x | better | 1,000 (2 to 3) |\n\n"
        "![What is shown.](figures/curve.png)\n\n*What is shown.*\n"
    )


def test_html():
    page = to_html(BLOCKS, {"curve": b"png"})
    assert "<title>A &lt; B</title>" in page
    assert "<p><strong>bold</strong> and <code>code</code> &amp; more</p>" in page
    assert "<ul>\n<li>one</li>\n<li>two</li>\n</ul>" in page
    assert (
        '<tr><td>Pong|x</td><td class="better">better</td>'
        '<td class="number">1,000 (2 to 3)</td></tr>'
    ) in page
    assert 'src="data:image/png;base64,cG5n"' in page


def test_what_runs_say_cannot_become_markup():
    hostile = "<script>alert(1)</script>"
    page = to_html([Heading(1, hostile), Table([hostile], [[hostile]])], {})
    assert "<script>" not in page
