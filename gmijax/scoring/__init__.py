"""Scores: log-likelihoods of targets given soft tokens, and greedy generation."""

from gmijax.scoring._generate import Generation, generate
from gmijax.scoring._likelihoods import log_likelihoods, next_token_loss, token_log_likelihoods
from gmijax.scoring._matrix import score_matrix

__all__ = [
    "Generation",
    "generate",
    "log_likelihoods",
    "next_token_loss",
    "score_matrix",
    "token_log_likelihoods",
]
