"""Files that people read: figures and JSON, whole or not at all."""

from gmijax.report._files import save_figure, to_json, write_json, write_text

__all__ = ["save_figure", "to_json", "write_json", "write_text"]
