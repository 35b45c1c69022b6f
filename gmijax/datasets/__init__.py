"""Data sets in their published layouts: labels and texts are read at once, recordings and images when asked for."""

from gmijax.datasets._dataset import Dataset
from gmijax.datasets._errors import DatasetError
from gmijax.datasets._lexical import lexical_labels
from gmijax.datasets._registry import names, open
from gmijax.datasets._sample import Sample

__all__ = [
    "Dataset",
    "DatasetError",
    "Sample",
    "lexical_labels",
    "names",
    "open",
]
