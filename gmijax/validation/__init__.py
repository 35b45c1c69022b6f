"""The main job: what a shift of the decoder's input costs, on a real language model and on closed-form channels."""

from gmijax.validation._run import main
from gmijax.validation._settings import Settings

__all__ = ["Settings", "main"]
