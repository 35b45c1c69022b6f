"""What a run is asked for."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What a run is asked for.

    Attributes:
      quick: 16 texts and three strengths a law instead of 36 and six.
      decoder: checkpoint folder or GGUF file; the packaged SmolLM2 if None.
      sentences: a text file, or "shipped" for the packaged one; the grammar if None.
      texts: how many sentences of the file are used.
      seed: of all randomness.
      memory_budget: bytes for a step of the scoring beside the weights.
    """

    quick: bool = False
    decoder: Path | None = None
    sentences: Path | str | None = None
    texts: int = 12
    seed: int = 0
    memory_budget: int = 2**30

    @property
    def draws(self) -> int:
        """Soft-token blocks a text under a random law."""
        return 1 if self.sentences else 2 if self.quick else 5
