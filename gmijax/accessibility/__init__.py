"""How much of an attribute each kind of read-out reaches, and where the rest is lost."""

from gmijax.accessibility._attributes import AttributeAnalysis, attribute_analysis
from gmijax.accessibility._figure import ladder_figure
from gmijax.accessibility._ladder import RUNGS, Estimate, Ladder, ladder

__all__ = ["RUNGS", "AttributeAnalysis", "Estimate", "Ladder", "attribute_analysis", "ladder", "ladder_figure"]
