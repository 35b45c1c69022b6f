"""What models there are, for people: names, published checkpoints, hook points, and the parity reached."""

import json
from importlib import resources
from typing import Any, NamedTuple

_DECODER = "inputs_embeds, llm_hidden_0..L-1, llm_final"
_ENCODER = "encoder_inputs, encoder_hidden_0..L-1, encoder_output"
_COMPOSED = f"{_ENCODER}, adapter_input, adapter_output, {_DECODER}"


class Entry(NamedTuple):
    """One model.

    Attributes:
      name: of its module in `gmijax.models`.
      published: checkpoints that have its layout, by their names on the Hugging Face hub.
      hook_points: in words; L is the number of layers.
      parity: by type of the numbers, the largest difference from the original over all recorded tensors, as a share
        of the tensor's largest value; empty where none was recorded.
    """

    name: str
    published: tuple[str, ...]
    hook_points: str
    parity: dict[str, float]


_ENTRIES = (
    ("llama", ("meta-llama/Llama-3.1-8B", "lmsys/vicuna-7b-v1.5", "HuggingFaceTB/SmolLM2-135M-Instruct"), _DECODER),
    ("llama (qwen2)", ("Qwen/Qwen2-7B", "Qwen/Qwen2.5-7B"), _DECODER),
    ("clip", ("openai/clip-vit-large-patch14-336",), _ENCODER),
    ("siglip", ("google/siglip-so400m-patch14-384",), _ENCODER),
    ("dinov2", ("facebook/dinov2-large", "facebook/dinov2-with-registers-large"), _ENCODER),
    ("whisper", ("openai/whisper-tiny.en", "openai/whisper-large-v3-turbo"), _ENCODER),
    ("llava", ("llava-hf/llava-1.5-7b-hf",), _COMPOSED),
    ("prismatic", ("TRI-ML/prismatic-vlms: dinov2-224px+7b, siglip-224px+7b",), _COMPOSED),
    ("qwen2_audio", ("Qwen/Qwen2-Audio-7B-Instruct",), _COMPOSED),
    ("ultravox", ("fixie-ai/ultravox-v0_6-llama-3_1-8b", "fixie-ai/ultravox-v0_5-llama-3_2-1b"), _COMPOSED),
)


def catalogue() -> list[Entry]:
    """All models, with the parity that `python -m gmijax.testing.parity_report` recorded last."""
    recorded: list[dict[str, Any]] = json.loads((resources.files("gmijax") / "data" / "parity.json").read_text("utf-8"))
    entries = []
    for name, published, hook_points in _ENTRIES:
        parity: dict[str, float] = {}
        for row in recorded:
            if row["model"] == name:
                share = max(tensor["share"] for tensor in row["tensors"].values())
                parity[row["dtype"]] = max(share, parity.get(row["dtype"], 0.0))
        entries.append(Entry(name, published, hook_points, parity))
    return entries
