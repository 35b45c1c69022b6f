"""How much of an attribute each kind of read-out reaches, and where the rest is lost."""

from gmijax.accessibility._figure import ladder_figure
from gmijax.accessibility._ladder import RUNGS, Estimate, Ladder, ladder

__all__ = ["RUNGS", "Estimate", "Ladder", "ladder", "ladder_figure"]
