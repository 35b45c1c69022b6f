"""The main job: what a shift of the decoder's input costs, on a real language model and on closed-form channels."""

from gmijax.validation._run import main
from gmijax.validation._sweep import Settings, run

__all__ = ["Settings", "main", "run"]
