"""What a command leaves behind: JSON, Markdown and a figure on disk, a table or the JSON on the terminal."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gmijax.report._files import save_figure, to_json, write_json, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 150


class Table(NamedTuple):
    """A table of cells that are text already; the note goes below it."""

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown(tables: Sequence[Table]) -> str:
    """The tables as Markdown."""
    parts = []
    for title, note, header, rows in tables:
        lines = [f"## {title}", "", f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
        lines += [f"| {' | '.join(cells)} |" for cells in rows]
        parts.append("\n".join([*lines, "", note, ""]))
    return "\n".join(parts)


def publish(
    result: dict[str, Any],
    tables: Sequence[Table],
    figure: "Figure | None",
    stem: Path,
    *,
    as_json: bool = False,
    closing: str = "",
) -> None:
    """Writes `stem`.json, .md and, with a figure, .svg and .png; prints the tables, or the JSON alone.

    Args:
      result: plain values and arrays.
      tables: what people read.
      figure: or None.
      stem: the files' path without suffix.
      as_json: whether the terminal gets the JSON instead of the tables.
      closing: begins the last line on the terminal, e.g. how long it took.
    """
    written = [stem.with_suffix(".json"), stem.with_suffix(".md")]
    write_json(written[0], result)
    write_text(written[1], markdown(tables))
    if figure is not None:
        written += save_figure(figure, stem)
    if as_json:
        sys.stdout.write(to_json(result))
        return
    # Imported here: whoever only writes files needs no terminal.
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console()
    console.width = max(console.width, WIDTH)  # a folded table of numbers cannot be read
    for title, note, header, rows in tables:
        table = RichTable(title=title, caption=note, title_justify="left", caption_justify="left")
        for k, name in enumerate(header):
            table.add_column(name, justify="left" if k == 0 else "right", no_wrap=k == 0)
        for cells in rows:
            table.add_row(*cells)
        console.print(table)
    names = ", ".join(path.name for path in written)
    console.print(f"{closing}{names} in {stem.parent}", highlight=False)


def number(value: Any) -> str:
    """A number in a table: three decimals, or two digits and an exponent where these would say nothing."""
    value = float(value)
    if value != value or value in (float("inf"), float("-inf")):
        return "nan" if value != value else "inf" if value > 0 else "-inf"
    if value != 0 and (abs(value) >= 1e4 or abs(value) < 1e-3):
        return f"{value:.1e}"
    return f"{value:.3f}"


def with_interval(value: Any, lower: Any, upper: Any) -> str:
    """A number and its interval in a table."""
    return f"{number(value)} [{number(lower)}, {number(upper)}]"
