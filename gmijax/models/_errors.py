"""Errors that the models share."""

from collections.abc import Iterable


class ConfigError(ValueError):
    """A model configuration that cannot be honoured; `problems` lists everything that is wrong with it."""

    def __init__(self, model: str, problems: Iterable[str]):
        self.model = model
        self.problems = tuple(problems)
        super().__init__(f"the {model} config cannot be used:\n" + "\n".join(f"  - {p}" for p in self.problems))
