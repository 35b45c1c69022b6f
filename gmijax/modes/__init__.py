"""Eigenmodes of a law, which of them the text law shares, and which of them the decoder reads."""

from gmijax.modes._alignment import Alignment, align
from gmijax.modes._classes import ClassScatter, class_scatter
from gmijax.modes._cross import CrossFitted
from gmijax.modes._eigenmodes import Modes, eigenmodes
from gmijax.modes._kappa import Kappa, kappa, squared_coordinates
from gmijax.modes._results import Estimate
from gmijax.modes._subspaces import Split, Subspace, split

__all__ = [
    "Alignment",
    "ClassScatter",
    "CrossFitted",
    "Estimate",
    "Kappa",
    "Modes",
    "Split",
    "Subspace",
    "align",
    "class_scatter",
    "eigenmodes",
    "kappa",
    "split",
    "squared_coordinates",
]
