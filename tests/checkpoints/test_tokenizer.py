import importlib.util

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmijax.checkpoints import CheckpointError, load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return load_tokenizer(smollm2)


def byte_alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


@pytest.fixture
def fields() -> dict:
    """A byte-level tokenizer: two control tokens, the 256 bytes, and what five merges make."""
    merged = ["12", "123", "1234", "Ġa", "ab"]
    return {
        "llama.context_length": 128,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["<s>", "</s>", *byte_alphabet(), *merged],
        "tokenizer.ggml.token_type": [3, 3, *[1] * (256 + len(merged))],
        "tokenizer.ggml.merges": ["1 2", "12 3", "123 4", "Ġ a", "a b"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.chat_template": "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}",
    }


def pieces(tokenizer, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def test_pre_tokenizers_split_digits_each_in_its_way(write_gguf, fields):
    def split(pre):
        return pieces(load_tokenizer(write_gguf(fields | {"tokenizer.ggml.pre": pre})), "ab 1234")

    assert split("gpt-2") == ["ab", "Ġ", "1234"]
    assert split("smollm") == ["ab", "Ġ", "1", "2", "3", "4"]
    assert split("llama-bpe") == ["<s>", "ab", "Ġ", "123", "4"]


def test_words_of_the_vocabulary_need_no_merges_in_llama_bpe(write_gguf, fields):
    fields["tokenizer.ggml.tokens"].append("xyz")
    fields["tokenizer.ggml.token_type"].append(1)
    assert pieces(load_tokenizer(write_gguf(fields)), "xyz") == ["x", "y", "z"]
    llama = load_tokenizer(write_gguf(fields | {"tokenizer.ggml.pre": "llama-bpe"}))
    assert pieces(llama, "xyz") == ["<s>", "xyz"]


def test_special_tokens_and_template_come_from_the_metadata(write_gguf, fields):
    more = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    tokenizer = load_tokenizer(write_gguf(fields | more))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", None)
    assert tokenizer("ab")["input_ids"] == [0, tokenizer.convert_tokens_to_ids("ab"), 1]
    assert tokenizer.decode(tokenizer("ab")["input_ids"], skip_special_tokens=True) == "ab"
    assert tokenizer.model_max_length == 128
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<s>hi</s>"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokenizer.ggml.pre": "tekken"}, "'tekken' is not known"),
        ({"tokenizer.ggml.pre": "default"}, "'default' is not known"),
        ({"tokenizer.ggml.pre": None}, "None is not known"),
        ({"tokenizer.ggml.model": "llama"}, "'llama' is not rebuilt"),
        ({"tokenizer.ggml.model": None}, "no tokenizer"),
        ({"tokenizer.ggml.merges": None}, "merges is absent"),
        ({"tokenizer.ggml.bos_token_id": 999}, "bos_token_id = 999"),
        ({"tokenizer.ggml.add_space_prefix": True}, "add_space_prefix"),
    ],
)
def test_what_cannot_be_rebuilt_is_refused_by_name(write_gguf, fields, change, words):
    fields = {key: value for key, value in (fields | change).items() if value is not None}
    with pytest.raises(CheckpointError, match=words):
        load_tokenizer(write_gguf(fields))


def test_a_folder_gives_its_own_tokenizer(write_gguf, fields, tmp_path):
    original = load_tokenizer(write_gguf(fields))
    original.save_pretrained(tmp_path / "folder")
    loaded = load_tokenizer(tmp_path / "folder")
    assert loaded("ab 1234")["input_ids"] == original("ab 1234")["input_ids"]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"none of tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_sentencepiece_model_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.model").write_bytes(b"")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sentencepiece" else find(name))
    with pytest.raises(ImportError, match=r"gmijax\[sentencepiece\]"):
        load_tokenizer(tmp_path)


# Its vocabulary lacks 21 single bytes: those of six control characters, and those that begin no assigned character.
@given(text=st.text(st.characters(exclude_categories=["Cc", "Cn", "Cs"]), max_size=40))
def test_smollm2_gives_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_smollm2_tokens(tokenizer):
    assert pieces(tokenizer, "The year 1984 <|im_end|>") == ["The", "Ġyear", "Ġ", "1", "9", "8", "4", "Ġ", "<|im_end|>"]
    assert len(tokenizer) == 49152
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Name three colours."}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("<|im_start|>user\nName three colours.<|im_end|>\n<|im_start|>assistant\n")
