"""Scores: log-likelihoods of targets given soft tokens, their differentiable forms, and greedy generation."""

from gmijax.scoring._decoder_scores import DecoderScores
from gmijax.scoring._differentiable import SoftTokenLogits, SoftTokenScore, soft_token_logits, soft_token_score
from gmijax.scoring._generate import Generation, generate
from gmijax.scoring._likelihoods import log_likelihoods, next_token_loss, token_log_likelihoods
from gmijax.scoring._matrix import score_matrix

__all__ = [
    "DecoderScores",
    "Generation",
    "SoftTokenLogits",
    "SoftTokenScore",
    "generate",
    "log_likelihoods",
    "next_token_loss",
    "score_matrix",
    "soft_token_logits",
    "soft_token_score",
    "token_log_likelihoods",
]
