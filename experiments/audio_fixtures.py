"""Writes tiny random Ultravox and Qwen2-Audio checkpoints with what the originals make of them, for the tests.

    python -m venv /tmp/originals
    /tmp/originals/bin/pip install torch==2.13.0 transformers==4.51.3 peft==0.15.2 safetensors
    git clone https://github.com/fixie-ai/ultravox /tmp/ultravox
    PYTHONPATH=/tmp/ultravox /tmp/originals/bin/python experiments/audio_fixtures.py

Weights are random but of the size that trained ones have, so that a mistake shows. The layouts and settings are those
that larger fixtures lack: see `ULTRAVOX`.
"""

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration
from ultravox.model.ultravox_config import UltravoxConfig
from ultravox.model.ultravox_model import UltravoxModel

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"

TEXT = {
    "vocab_size": 48,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
AUDIO = {
    "num_mel_bins": 6,
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 20,
    "max_source_positions": 20,
}
WHISPER = AUDIO | {
    "model_type": "whisper",
    "_name_or_path": "openai/whisper-tiny-random",
    "vocab_size": 8,
    "decoder_layers": 1,
    "decoder_attention_heads": 1,
    "decoder_ffn_dim": 8,
    "decoder_start_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# v0.4.1 and before: the language model in the file and no norm in the middle. A latency mask and an odd stack factor.
ULTRAVOX = {
    "hidden_size": 28,
    "stack_factor": 3,
    "projector_ln_mid": False,
    "audio_latency_block_size": 8,
    "torch_dtype": "float32",
}
AUDIO_TOKEN = 40


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Weights of the size of trained ones, from a generator of our own."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        if "embed_tokens" in name:
            drawn *= 0.04
        elif "embed_positions" in name:
            drawn *= 0.3
        elif parameter.ndim == 1:
            drawn = 0.15 * drawn if name.endswith("bias") else 1 + 0.25 * drawn
        else:
            drawn *= parameter[0].numel() ** -0.5 * (1.6 if "q_proj" in name or "k_proj" in name else 1)
        parameter.data.copy_(drawn)
    model.eval()


def label(ids: torch.Tensor, mask: torch.Tensor, *, filler: int) -> torch.Tensor:
    """Labels of the text, but not where padding would have to predict them: what it attends to is undefined."""
    predicted = mask.bool() & torch.nn.functional.pad(mask, (1, -1)).bool()
    return torch.where(predicted & (ids != filler), ids, -100)


def record(model: Any, inputs: dict[str, torch.Tensor], adapter: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Runs a model and keeps what the parity harness compares."""
    kept: dict[str, torch.Tensor] = {}

    def keep(name: str, change: Callable = lambda output: output[0] if isinstance(output, tuple) else output):
        def hook(module, arguments, output):
            kept[name] = change(output)
            if name == "adapter_output":
                kept[name].retain_grad()

        return hook

    decoder = model.language_model.model
    handles = [
        model.audio_tower.layer_norm.register_forward_hook(keep("encoder_output")),
        adapter.register_forward_hook(keep("adapter_output")),
        decoder.norm.register_forward_hook(keep("llm_final")),
        *(layer.register_forward_hook(keep(f"llm_hidden_{k}")) for k, layer in enumerate(decoder.layers)),
        *(layer.register_forward_hook(keep(f"encoder_hidden_{k}")) for k, layer in enumerate(model.audio_tower.layers)),
    ]
    output = model(**inputs)
    output.loss.backward()
    for handle in handles:
        handle.remove()
    kept |= {
        "logits": output.logits,
        "loss": output.loss.reshape(1),
        "grad_adapter_output": kept["adapter_output"].grad,
    }
    kept["valid_mask"] = inputs["attention_mask"]
    return {name: tensor.detach().clone().contiguous() for name, tensor in kept.items()}


def write(folder: Path, model: Any, config: dict[str, Any], inputs: dict, expected: dict, text: str) -> None:
    """Writes a folder as the parity harness reads it."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    (folder / "README.md").write_text(text)
    weights = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
    for name, tensors in (("model", weights), ("inputs", inputs), ("expected", expected)):
        save_file(tensors, folder / f"{name}.safetensors")
    print(folder, sum(file.stat().st_size for file in folder.iterdir()), "bytes")


def ultravox(folder: Path) -> None:
    """Two rows with audio, one of them of two chunks, and between them a row of text alone; left and right padding."""
    parts = {"audio_config": WHISPER, "text_config": {"model_type": "llama", **TEXT}}
    model = UltravoxModel(UltravoxConfig(**copy.deepcopy(parts), **ULTRAVOX))
    randomise(model, 1)
    generator = torch.Generator().manual_seed(2)
    lengths, tokens = torch.tensor([37, 14, 25]), torch.tensor([7, 3, 5])  # ceil(ceil(length / 2) / 3)
    values = torch.randn(3, 6, 37, generator=generator)
    for row, length in zip(values, lengths, strict=True):
        row[:, length:] = 0
    ids = torch.randint(3, 48, (3, 20), generator=generator)
    mask = torch.ones(3, 20, dtype=torch.long)
    mask[0, 17:], mask[1, :9], mask[2, :4] = 0, 0, 0
    ids[0, 2:9], ids[0, 11:14], ids[2, 6:11] = 2, 2, 2
    labels = label(ids, mask, filler=2)
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "audio_values": values,
        "audio_lens": lengths,
        "audio_token_start_idx": torch.tensor([2, 11, 6]),
        "audio_token_len": tokens,
        "audio_batch_size": torch.tensor([2, 0, 1]),
    }
    expected = record(model, inputs, model.multi_modal_projector.ln_post)
    config = {
        "architectures": ["UltravoxModel"],
        "model_type": "ultravox",
        **parts,
        "audio_model_id": None,
        "text_model_id": None,
        **ULTRAVOX,
    }
    text = (
        "A tiny Ultravox with random weights, and what fixie-ai/ultravox makes of it under transformers 4.51.3;\n"
        "written by experiments/audio_fixtures.py. The layout is that of v0.4.1: the language model in the file and\n"
        "no norm in the middle of the projector. It has a latency mask (8 frames) and stacks 3 frames. Row 0 has two\n"
        "chunks of odd and even length, row 1 none, row 2 one; rows 1 and 2 are padded on the left, row 0 on the\n"
        "right.\n"
    )
    write(folder, model, config, inputs, expected, text)


def qwen2_audio(folder: Path) -> None:
    """Clips of even, odd and shortest length; two rows with audio, the second of two clips, and one of text alone."""
    parts = {
        "audio_config": {"model_type": "qwen2_audio_encoder", **AUDIO},
        "text_config": {"model_type": "qwen2", **TEXT},
    }
    model = Qwen2AudioForConditionalGeneration(
        Qwen2AudioConfig(**parts, audio_token_index=AUDIO_TOKEN, attn_implementation="eager")
    )
    randomise(model, 3)
    generator = torch.Generator().manual_seed(4)
    lengths, tokens = [40, 23, 2], [10, 6, 0]
    features = torch.randn(3, 6, 40, generator=generator)
    ids = torch.randint(3, 40, (3, 20), generator=generator)
    mask = torch.ones(3, 20, dtype=torch.long)
    mask[0, 18:], mask[1, :9], mask[2, :5] = 0, 0, 0
    ids[0, 3 : 3 + tokens[0]], ids[2, 7 : 7 + tokens[1]] = AUDIO_TOKEN, AUDIO_TOKEN
    labels = label(ids, mask, filler=AUDIO_TOKEN)
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "input_features": features,
        "feature_attention_mask": (torch.arange(40) < torch.tensor(lengths)[:, None]).long(),
    }
    expected = record(model, inputs, model.multi_modal_projector.linear)
    config = {
        "architectures": ["Qwen2AudioForConditionalGeneration"],
        "model_type": "qwen2_audio",
        "audio_token_index": AUDIO_TOKEN,
        **parts,
    }
    text = (
        "A tiny Qwen2-Audio with random weights, and what transformers 4.51.3 makes of it; written by\n"
        "experiments/audio_fixtures.py. Query heads share keys. The clips have 40, 23 and 2 mel frames, of which the\n"
        "last make no soft token; row 0 has the first clip, row 1 none, row 2 the others. Rows 1 and 2 are padded on\n"
        "the left, row 0 on the right.\n"
    )
    write(folder, model, config, inputs, expected, text)


def main() -> None:
    """Writes both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=FIXTURES)
    output = parser.parse_args().output
    torch.set_num_threads(1)
    ultravox(output / "ultravox_tiny")
    qwen2_audio(output / "qwen2_audio_tiny")


if __name__ == "__main__":
    main()
