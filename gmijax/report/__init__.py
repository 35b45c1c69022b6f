"""Files that people read: figures, tables and JSON, whole or not at all."""

from gmijax.report._files import save_figure, to_json, write_json, write_text
from gmijax.report._progress import progress_bars
from gmijax.report._publish import Table, markdown, number, publish, with_interval

__all__ = [
    "Table",
    "markdown",
    "number",
    "progress_bars",
    "publish",
    "save_figure",
    "to_json",
    "with_interval",
    "write_json",
    "write_text",
]
