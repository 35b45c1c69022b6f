"""Reading a Hugging Face config.json against an allow-list."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from gmijax.models._errors import ConfigError

T = TypeVar("T")

# Fields that say nothing about the numbers of a forward pass: provenance, storage, training and generation.
IRRELEVANT = frozenset(
    [
        *("_attn_implementation", "_attn_implementation_autoset", "_name_or_path", "architectures", "auto_map"),
        *("attention_dropout", "bad_words_ids", "begin_suppress_tokens", "chunk_size_feed_forward"),
        *("cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype"),
        *("early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty"),
        *("finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "id2label", "initializer_range"),
        *("is_decoder", "label2id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size"),
        *("num_beam_groups", "num_beams", "num_return_sequences", "output_attentions"),
        *("output_hidden_states", "output_scores", "prefix", "problem_type", "remove_invalid_values"),
        *("repetition_penalty", "return_dict", "return_dict_in_generate", "sep_token_id", "suppress_tokens"),
        *("task_specific_params", "temperature", "tf_legacy_loss", "tokenizer_class", "top_k", "top_p"),
        *("torch_dtype", "torchscript", "transformers.js_config", "transformers_version", "typical_p"),
        *("use_bfloat16", "use_cache"),
    ]
)

# Fields of every config class that have one value we can honour.
ONE_VALUE: dict[str, Any] = {
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "quantization_config": None,
    "tie_encoder_decoder": False,
}


class ConfigReader:
    """Takes fields out of a decoded config.json and collects in `problems` what is wrong with them.

    Args:
      config: the decoded JSON object.
    """

    def __init__(self, config: Mapping[str, Any]):
        self.config = config
        self.problems: list[str] = []
        self._broken = False

    def take(self, name: str, kind: type, default: Any, *, within: str | None = None) -> Any:
        """The field `name`, or `default` where it is absent; null is accepted where the default is None.

        Args:
          name: the field.
          kind: int, float (which takes integers too) or bool.
          default: for an absent field and, so that reading can go on, for one of another type.
          within: the field that holds an object in which to look; by default the config itself.
        """
        source = self.config if within is None else self.config[within]
        value = source.get(name, default)
        if value is None and default is None:
            return None
        accepted = (int, float) if kind is float else (kind,)
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            where = name if within is None else f"{within}.{name}"
            self.problems.append(f"{where} = {value!r}: must be a {kind.__name__}")
            return default
        return float(value) if isinstance(value, int) and kind is float else value

    def either(self, name: str, old: str, kind: type, default: Any) -> Any:
        """As `take`, of a field that had another name in transformers 4."""
        if name in self.config and old in self.config and self.config[name] != self.config[old]:
            self.problems.append(f"{name} is {self.config[name]!r} and {old} {self.config[old]!r}; keep one")
        return self.take(name if name in self.config else old, kind, default)

    def choose(self, name: str, default: str, choices: Mapping[str, T]) -> T:
        """What the value of the field `name` stands for; what `default` does, where it is absent or not known."""
        value = self.config.get(name)
        value = default if value is None else value
        if value not in choices:
            self.problems.append(f"{name} = {value!r} is not one of {', '.join(choices)}")
            value = default
        return choices[value]

    def part(self, name: str, read: Callable[[Mapping[str, Any]], T]) -> T | None:
        """The config of a part of the model; None, with its problems recorded, if it cannot be read."""
        content = self.config.get(name)
        if content is None:
            content = {}
        if not isinstance(content, Mapping):
            self.problems.append(f"{name} = {content!r}: must be an object")
            self._broken = True
            return None
        try:
            return read(content)
        except ConfigError as error:
            self.problems += [f"{name}: {problem}" for problem in error.problems]
            self._broken = True
            return None

    def build(self, model: str, make: Callable[..., T], **values: Any) -> T:
        """The resolved config.

        Args:
          model: its name, for the message.
          make: the config class.
          values: its fields.

        Raises:
          ConfigError: with everything that is wrong.
        """
        if self._broken:  # a part is missing, and its problems say why
            raise ConfigError(model, self.problems)
        try:
            resolved = make(**values)
        except ConfigError as error:
            raise ConfigError(model, [*self.problems, *error.problems]) from None
        if self.problems:
            raise ConfigError(model, self.problems)
        return resolved

    def finish(self, handled: Iterable[str], one_value: Mapping[str, Any], irrelevant: Iterable[str] = ()) -> None:
        """Records the fields that were not read and may not be passed over.

        Args:
          handled: fields that the caller has read.
          one_value: fields of which one value is supported; absent or null means that value.
          irrelevant: fields to pass over, besides those that every config class has.
        """
        one_value = {**ONE_VALUE, **one_value}
        known = {*handled, *one_value, *irrelevant, *IRRELEVANT}
        for name, value in sorted(self.config.items()):
            if name not in known:
                self.problems.append(f"{name} = {value!r} is not known; remove it if it does not change the numbers")
            elif value is not None and value != one_value.get(name, value):
                self.problems.append(f"{name} = {value!r}: only {one_value[name]!r} is supported")
