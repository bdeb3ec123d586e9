"""Tables on a terminal: columns of plain text."""

from collections.abc import Sequence


def align_columns(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Pad the cells so that columns line up, two spaces apart; one line per row.

    Args:
        rows: Cells, the same number in every row; the heading is one of them.
        left: How many columns are flush left; those behind them are flush right, as numbers are.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
