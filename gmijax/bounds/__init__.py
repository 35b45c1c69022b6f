"""What a shift of the representations can cost: the theorems of THEORY.md, section 4."""

from gmijax.bounds._bounds import Bound, caps, consistent, inputs, messages, paper
from gmijax.bounds._scores import Bracket, edit_bracket, score_shift

__all__ = ["Bound", "Bracket", "caps", "consistent", "edit_bracket", "inputs", "messages", "paper", "score_shift"]
