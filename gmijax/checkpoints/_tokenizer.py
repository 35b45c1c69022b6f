"""The tokenizer of a checkpoint."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gmijax.checkpoints._errors import CheckpointError
from gmijax.checkpoints._gguf import GGUFContent, read_gguf

if TYPE_CHECKING:  # transformers takes seconds to import, and models do not need it
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers import PreTrainedTokenizerBase

_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
# GGUF's numbers for the kinds of token: unknown, control, made by the user.
_UNKNOWN, _CONTROL, _USER = 2, 3, 4


class _Splitting(NamedTuple):
    """What llama.cpp's name for a pre-tokenizer stands for."""

    pattern: str | None  # None: GPT-2's, which tokenizers has built in
    single_digits: bool = False
    whole_words_first: bool = False  # a word that is in the vocabulary is not built up by merges
    adds_bos: bool = False


# The patterns are those of the original tokenizer.json files (SmolLM2, GPT-2, Llama 3).
_SPLITTINGS = {
    "smollm": _Splitting(None, single_digits=True),
    "gpt-2": _Splitting(None),
    "llama-bpe": _Splitting(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
        whole_words_first=True,
        adds_bos=True,
    ),
}


def load_tokenizer(path: str | Path) -> "PreTrainedTokenizerBase":
    """Loads the tokenizer of a checkpoint, from local files only.

    Args:
      path: a folder with the tokenizer files of HuggingFace, or a `.gguf` file with a byte-level BPE ("gpt2")
        tokenizer, which is rebuilt with its special tokens and its chat template.

    Returns:
      A tokenizer of transformers; call it with `return_tensors="np"`.

    Raises:
      CheckpointError: if there is no tokenizer, or it is of a kind that cannot be rebuilt faithfully.
      ImportError: if the folder holds only a `tokenizer.model` and sentencepiece is not installed.
    """
    path = Path(path)
    if path.suffix == ".gguf" and path.is_file():
        return _from_gguf(read_gguf(path))
    if not any((path / name).exists() for name in _FILES):
        raise CheckpointError(path, [f"holds no tokenizer: none of {', '.join(_FILES)}"])
    only_model = (path / "tokenizer.model").exists() and not (path / "tokenizer.json").exists()
    if only_model and importlib.util.find_spec("sentencepiece") is None:
        raise ImportError(
            f"{path} holds a tokenizer.model and no tokenizer.json, which needs sentencepiece:"
            " pip install 'gmijax[sentencepiece]'"
        )
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(path, [f"its tokenizer cannot be loaded: {error}"]) from error


def _from_gguf(content: GGUFContent) -> "PreTrainedTokenizerBase":
    """Rebuilds a byte-level BPE tokenizer from the metadata of a GGUF file."""
    fields = {k.removeprefix("tokenizer.ggml."): v for k, v in content.fields.items() if k.startswith("tokenizer.")}
    splitting = _splitting(content, fields)
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    tokens = fields["tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["merges"]]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=splitting.whole_words_first)
    backend = Tokenizer(model)
    backend.pre_tokenizer = _pre_tokenizer(splitting)
    backend.decoder = decoders.ByteLevel()
    kinds = fields.get("token_type", [])
    backend.add_tokens(
        [
            AddedToken(token, special=kind != _USER, normalized=False)
            for token, kind in zip(tokens, kinds, strict=False)
            if kind in (_UNKNOWN, _CONTROL, _USER)
        ]
    )

    def token(name: str) -> str | None:
        index = fields.get(f"{name}_token_id")
        return None if index is None else tokens[index]

    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=token("bos"),
        eos_token=token("eos"),
        unk_token=token("unknown"),
        pad_token=token("padding"),
        add_bos_token=fields.get("add_bos_token", splitting.adds_bos),
        add_eos_token=fields.get("add_eos_token", False),
        chat_template=fields.get("tokenizer.chat_template"),
        model_max_length=content.fields.get("llama.context_length"),
        clean_up_tokenization_spaces=False,  # decoding is to give back the text
    )


def _splitting(content: GGUFContent, fields: dict[str, Any]) -> _Splitting:
    """Checks that the tokenizer is one that we rebuild faithfully; returns how it splits text."""
    advice = "; take the tokenizer from the folder of the original model"
    if "model" not in fields:
        raise CheckpointError(content.path, ["its metadata holds no tokenizer" + advice])
    if fields["model"] != "gpt2":
        message = f"tokenizer model {fields['model']!r} is not rebuilt, only byte-level BPE ('gpt2')"
        raise CheckpointError(content.path, [message + advice])
    if fields.get("pre") not in _SPLITTINGS:
        message = f"pre-tokenizer {fields.get('pre')!r} is not known, only {', '.join(map(repr, _SPLITTINGS))}"
        raise CheckpointError(content.path, [message + advice])
    problems = [f"the metadata key tokenizer.ggml.{k} is absent" for k in ("tokens", "merges") if k not in fields]
    if fields.get("add_space_prefix"):
        problems.append("tokenizer.ggml.add_space_prefix is true, which a byte-level BPE has no rule for")
    repeated = len(fields.get("tokens", ())) - len(set(fields.get("tokens", ())))
    if repeated:
        problems.append(f"tokenizer.ggml.tokens repeats {repeated} tokens")
    size = len(fields.get("tokens", ()))
    for name, value in fields.items():
        if name.endswith("_token_id") and not 0 <= value < size:
            problems.append(f"tokenizer.ggml.{name} = {value} lies outside the {size} tokens")
    if problems:
        raise CheckpointError(content.path, problems)
    return _SPLITTINGS[fields["pre"]]


def _pre_tokenizer(splitting: _Splitting) -> "PreTokenizer":
    from tokenizers import Regex, pre_tokenizers

    steps = []
    if splitting.single_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if splitting.pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(splitting.pattern), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=splitting.pattern is None))
    return pre_tokenizers.Sequence(steps)
