"""A small document of headings, paragraphs, lists, tables and pictures, as Markdown and as HTML."""

import base64
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff;
       max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; margin: 2rem 0 .6rem; }
p, li { max-width: 52rem; }
code { font-size: .9em; background: #f3f3f3; padding: 0 .2em; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: left;
         vertical-align: top; }
th { border-bottom: 2px solid #888; }
td.number, th.number { text-align: right; } td.number { white-space: nowrap; }
.better { background: #dbeedd; } .worse { background: #f6dfda; } .similar { background: #e3e9f5; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
figcaption { font-size: .9rem; color: #444; max-width: 52rem; }
"""
_VERDICT = re.compile(r"better|worse|similar")
_NUMBER = re.compile(r"[-+]?[\d_,.e+-]+( ?%)?( \(.*\))?|-|[^a-z]* to [^a-z]*|none of \d+")


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text; `` `code` `` and **strong** are marked as in Markdown."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of points."""

    points: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Cells by row, under their headings."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A picture, by its name among the report's figures."""

    name: str
    caption: str


Block = Heading | Paragraph | Bullets | Table | Figure


def to_markdown(blocks: Sequence[Block], figure_folder: str) -> str:
    """Render as GitHub-flavoured Markdown; pictures are links into a folder."""
    return "\n\n".join(_block_to_markdown(block, figure_folder) for block in blocks) + "\n"


def to_html(blocks: Sequence[Block], figures: Mapping[str, bytes]) -> str:
    """Render as one page that needs no other file; pictures are inlined PNG."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    body = "\n".join(_block_to_html(block, figures) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _block_to_markdown(block: Block, figure_folder: str) -> str:
    if isinstance(block, Heading):
        return "#" * block.level + " " + block.text
    if isinstance(block, Paragraph):
        return block.text
    if isinstance(block, Bullets):
        return "\n".join(f"- {point}" for point in block.points)
    if isinstance(block, Figure):
        return f"![{block.caption}]({figure_folder}/{block.name}.png)\n\n*{block.caption}*"

    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = ["---:" if number else "---" for number in _number_columns(block)]
    return "\n".join([row(block.headings), row(rule), *map(row, block.rows)])


def _block_to_html(block: Block, figures: Mapping[str, bytes]) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{_inline(block.text)}</h{block.level}>"
    if isinstance(block, Paragraph):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Bullets):
        points = "".join(f"<li>{_inline(point)}</li>\n" for point in block.points)
        return f"<ul>\n{points}</ul>"
    if isinstance(block, Figure):
        data = base64.b64encode(figures[block.name]).decode("ascii")
        caption = html.escape(block.caption)
        return (
            f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
            f"<figcaption>{_inline(block.caption)}</figcaption></figure>"
        )
    numbers = _number_columns(block)

    def row(tag: str, cells: Sequence[str]) -> str:
        parts = []
        for cell, number in zip(cells, numbers, strict=True):
            verdict = _VERDICT.fullmatch(cell)
            names = ["number"] * number + ([verdict[0]] if verdict else [])
            kind = f' class="{" ".join(names)}"' if names else ""
            parts.append(f"<{tag}{kind}>{_inline(cell)}</{tag}>")
        return f"<tr>{''.join(parts)}</tr>"

    body = "\n".join(row("td", cells) for cells in block.rows)
    return (
        f'<div class="table"><table>\n<thead>{row("th", block.headings)}</thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _number_columns(table: Table) -> list[bool]:
    """Which columns hold numbers alone, and are set flush right."""
    return [
        bool(table.rows) and all(_NUMBER.fullmatch(row[column]) for row in table.rows)
        for column in range(len(table.headings))
    ]


def _inline(text: str) -> str:
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", marked)
