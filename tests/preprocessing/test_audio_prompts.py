from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from gmijax.models import Qwen2Audio, Ultravox, load
from gmijax.preprocessing import place_audio, qwen2_audio_prompt, ultravox_prompt

TINY = Path(__file__).parents[1] / "fixtures" / "tiny"
LLAMA = (
    "<bos>{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
# In the form of Qwen2-Audio's processor: a system turn by default, and clips that are numbered and marked.
QWEN = (
    "[system]helpful<end>{% set count = namespace(n=0) %}{% for m in messages %}[{{ m['role'] }}]"
    "{% for part in m['content'] %}{% if part['type'] == 'audio' %}{% set count.n = count.n + 1 %}"
    "Audio {{ count.n }}: <|audio_bos|><|AUDIO|><|audio_eos|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<end>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    """A token for each character, which adds <bos> unless it is told not to."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {chr(i): i for i in range(32, 127)} | {"<bos>": 1, "?": 0}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.add_special_tokens(["<bos>"])
    backend.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=backend)
    fast.chat_template = LLAMA
    return fast


def spell(text: str) -> list[int]:
    return [1 if character == "\0" else ord(character) for character in text.replace("<bos>", "\0")]


def test_ultravox_prompt_is_the_template_cut_at_the_audio(tokenizer):
    assert ultravox_prompt(tokenizer) == [spell("<bos>[user]"), spell("<end>[assistant]")]
    pieces = ultravox_prompt(tokenizer, "Repeat <|audio|> and <|audio|>!")
    assert pieces == [spell("<bos>[user]Repeat "), spell(" and "), spell("!<end>[assistant]")]
    assert len(ultravox_prompt(tokenizer, "No audio.")) == 1


def test_qwen2_audio_prompt_numbers_the_clips(tokenizer):
    head, tail = qwen2_audio_prompt(tokenizer, chat_template=QWEN)
    assert head == spell("[system]helpful<end>[user]Audio 1: <|audio_bos|>")
    assert tail == spell("<|audio_eos|>Describe this audio.<end>[assistant]")
    pieces = qwen2_audio_prompt(tokenizer, "Compare.", clips=2, chat_template=QWEN)
    assert pieces[1] == spell("<|audio_eos|>Audio 2: <|audio_bos|>")
    with pytest.raises(ValueError, match=r"puts 0 <\|AUDIO\|> for 1 clips; give the processor's"):
        qwen2_audio_prompt(tokenizer, chat_template="{{ messages[0]['role'] }}")


def test_places_follow_each_other():
    got = place_audio(
        [[[5, 6], [7], [8, 9]], [[4, 4, 4]], [[], [3]]], [[[2, 1], [3]], [], [[1]]], filler_id=2, pad_id=0
    )
    np.testing.assert_array_equal(
        got.input_ids,
        [[5, 6, 2, 2, 2, 7, 2, 2, 2, 8, 9], [0] * 8 + [4] * 3, [0] * 9 + [2, 3]],
    )
    np.testing.assert_array_equal(got.attention_mask, [[1] * 11, [0] * 8 + [1] * 3, [0] * 9 + [1] * 2])
    np.testing.assert_array_equal(got.starts, [2, 4, 6, 9])
    np.testing.assert_array_equal(got.lengths, [2, 1, 3, 1])
    np.testing.assert_array_equal(got.chunks, [3, 0, 1])


@given(
    counts=st.lists(st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=3), min_size=1, max_size=4),
    padding=st.sampled_from(["left", "right"]),
)
def test_every_place_and_no_other_holds_the_filler(counts, padding):
    pieces = [[[7, 7]] * (len(clips) + 1) for clips in counts]
    got = place_audio(pieces, counts, filler_id=2, pad_id=0, padding=padding)
    places = np.zeros_like(got.input_ids)
    for row, start, length in zip(np.repeat(np.arange(len(counts)), got.chunks), got.starts, got.lengths, strict=True):
        places[row, start : start + length] += 1
    np.testing.assert_array_equal(places, got.input_ids == 2)
    np.testing.assert_array_equal(got.attention_mask, got.input_ids != 0)
    padded = got.attention_mask[:, 0 if padding == "right" else -1]
    assert padded.all()
    assert [*got.lengths] == [n for clips in counts for chunks in clips for n in chunks]


@pytest.mark.parametrize(
    ("pieces", "tokens", "words"),
    [
        ([[[1]]], [], "pieces have 1 rows and tokens 0"),
        ([[[1]], [[1]]], [[], [[3]]], "row 1 has 1 pieces of text for 1 clips; give one piece more"),
        ([[[]]], [[]], "row 0 is empty"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(pieces, tokens, words):
    with pytest.raises(ValueError, match=words):
        place_audio(pieces, tokens, filler_id=2, pad_id=0)


@pytest.mark.slow
def test_the_models_take_what_was_placed():
    """The recorded calls, put together again from their pieces."""
    for name, kind in (("ultravox", Ultravox), ("qwen2_audio", Qwen2Audio)):
        model = load(TINY / name)
        inputs = load_file(TINY / name / "inputs.safetensors")
        assert isinstance(model, kind)
        ids, mask = inputs["input_ids"], inputs["attention_mask"].astype(bool)
        count = model.config.audio_tokens
        if kind is Ultravox:
            counts, filler = [[[count(37)], [count(14)]], [], [[count(25)]]], 2
            cuts = [[(2, 9), (11, 14)], [], [(6, 11)]]
        else:
            counts, filler = [[[count(40)]], [], [[count(23)], [count(2)]]], model.config.audio_token_id
            cuts = [[(3, 13)], [], [(7, 13), (13, 13)]]
        pieces = []
        for row, spans in enumerate(cuts):
            first, last = np.flatnonzero(mask[row])[[0, -1]]
            edges = [first, *(edge for span in spans for edge in span), last + 1]
            pieces.append([ids[row, a:b].tolist() for a, b in zip(edges[::2], edges[1::2], strict=True)])
        placed = place_audio(pieces, counts, filler_id=filler, pad_id=0)
        fields = {name: value for name, value in inputs.items() if name in model.Media._fields}
        if kind is Ultravox:
            fields["audio_token_start_idx"], fields["audio_token_len"] = placed.starts, placed.lengths
            fields["audio_batch_size"] = placed.chunks
        output = model(placed.input_ids, model.Media(**fields), attention_mask=placed.attention_mask)
        expected = load_file(TINY / name / "expected.safetensors")["logits"]
        for row in range(3):
            got = output.logits[row][placed.attention_mask[row].astype(bool)]
            np.testing.assert_allclose(got, expected[row][mask[row]], rtol=0, atol=5e-5)
