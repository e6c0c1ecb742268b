"""Tables that fit a terminal: what has no room goes on in a further table, and no figure is ever cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text

_PADDING = (0, 0, 0, 1)
_EDGE = 1  # a line before each column, and one after the last


@dataclass
class Columns:
    """A table whose columns have the width that they need.

    Attributes
    ----------
    title, caption : str
    header : sequence of str
        Of the labels and the figures; it may be broken between words.
    labels : int
        How many columns, the first ones, say what a row is; a further table has them again.
    rows : list of sequence of str
        With markup, and with lines.
    styles : list of str
        One for each row; empty is none.
    """

    title: str
    header: Sequence[str]
    labels: int = 1
    caption: str = ""
    rows: list[Sequence[str]] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)

    def add(self, *cells: str, style: str = "") -> None:
        """A row."""
        self.rows.append(cells)
        self.styles.append(style)

    def show(self, console: Console) -> None:
        """Print it, as one table or as several."""
        wide, narrow = self._widths(whole=True), self._widths(whole=False)
        widths = wide if _total(wide) <= console.width else narrow
        parts = list(self._parts(widths, console.width))
        for number, part in enumerate(parts):
            console.print(self._table(part, widths, number, last=number == len(parts) - 1))

    def _parts(self, widths: Sequence[int], room: int) -> Iterator[list[int]]:
        """The columns of each table: the labels, and as many of the others as there is room for, one at least."""
        labels = list(range(self.labels))
        part = labels
        for index in range(self.labels, len(self.header)):
            if part != labels and _total([widths[i] for i in [*part, index]]) > room:
                yield part
                part = labels
            part = [*part, index]
        yield part

    def _widths(self, whole: bool) -> list[int]:
        """Of each column: that of its longest cell or of its header, which is whole or broken between words."""
        widths = []
        for index, header in enumerate(self.header):
            words = [header] if whole else header.split()
            lines = [line for row in self.rows for line in Text.from_markup(row[index]).split() or [Text()]]
            widths.append(max([line.cell_len for line in lines] + [Text(word).cell_len for word in words] + [1]))
        return widths

    def _table(self, part: Sequence[int], widths: Sequence[int], number: int, last: bool) -> Table:
        title = self.title and f"{self.title}{', continued' if number else ''}"
        table = Table(title=title or None, title_justify="left", padding=_PADDING)
        for index in part:
            side = "left" if index < self.labels else "right"
            table.add_column(self.header[index], justify=side, width=widths[index])  # type: ignore[arg-type]
        for cells, style in zip(self.rows, self.styles, strict=True):
            table.add_row(*(cells[index] for index in part), style=style or None)
        if last and self.caption:
            table.caption, table.caption_justify = self.caption, "left"
        return table


def _total(widths: Sequence[int]) -> int:
    """Of a table with such columns."""
    return sum(width + _PADDING[3] + _EDGE for width in widths) + _EDGE
