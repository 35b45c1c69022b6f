"""GGUF files of the llama and qwen2 architectures, in HuggingFace's terms.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. We parse the header ourselves because
`gguf.GGUFReader` takes seconds for the arrays of a tokenizer and reads past the end of a file that is cut short.
"""

import math
import mmap
import re
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np

from gmijax.checkpoints._errors import CheckpointError

_SCALARS = {
    gguf.GGUFValueType.UINT8: "B",
    gguf.GGUFValueType.INT8: "b",
    gguf.GGUFValueType.UINT16: "H",
    gguf.GGUFValueType.INT16: "h",
    gguf.GGUFValueType.UINT32: "I",
    gguf.GGUFValueType.INT32: "i",
    gguf.GGUFValueType.FLOAT32: "f",
    gguf.GGUFValueType.BOOL: "?",
    gguf.GGUFValueType.UINT64: "Q",
    gguf.GGUFValueType.INT64: "q",
    gguf.GGUFValueType.FLOAT64: "d",
}
_PLAIN = {
    gguf.GGMLQuantizationType.F16: np.float16,
    gguf.GGMLQuantizationType.F32: np.float32,
    gguf.GGMLQuantizationType.F64: np.float64,
}
_VERSIONS = (2, 3)
_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
_ROPE_FACTORS = "rope_freqs.weight"
_HF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class GGUFTensor(NamedTuple):
    """Where a tensor lies: its shape in numpy's order, its type, its first byte in the file, its length."""

    shape: tuple[int, ...]
    type: gguf.GGMLQuantizationType
    offset: int
    nbytes: int


class GGUFContent(NamedTuple):
    """The header of a file: `fields` by key (arrays are lists), `tensors` by name."""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, GGUFTensor]


def read_gguf(path: Path) -> GGUFContent:
    """Reads the header of a GGUF file and checks that every tensor lies inside the file.

    Raises:
      CheckpointError: if the file is no GGUF file of version 2 or 3, is cut short, or names something twice.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            fields, infos, start = _Header(data).parse()
    except (struct.error, EOFError) as error:
        raise CheckpointError(path, [f"cut short: its {size} bytes end inside the header"]) from error
    except ValueError as error:  # includes UnicodeDecodeError, and mmap's refusal of an empty file
        raise CheckpointError(path, [f"not a GGUF file that can be read: {error}"]) from error

    tensors, beyond = {}, []
    for name, shape, kind, offset in infos:
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        tensor = GGUFTensor(shape, kind, start + offset, math.prod(shape) // block * block_bytes)
        tensors[name] = tensor
        if tensor.offset + tensor.nbytes > size:
            beyond.append(name)
    if beyond:
        end = max(t.offset + t.nbytes for t in tensors.values())
        message = (
            f"cut short: {size} bytes of at least {end}; {len(beyond)} of {len(tensors)} tensors lie beyond the end"
        )
        raise CheckpointError(path, [f"{message}, the first is {beyond[0]}"])
    return GGUFContent(path, fields, tensors)


class _Header:
    """A reader that walks through the header from its first byte."""

    def __init__(self, data: mmap.mmap):
        self._data = data
        self._at = 0

    def parse(self) -> tuple[dict[str, Any], list[tuple], int]:
        if self._take(4) != b"GGUF":
            raise ValueError("it does not begin with the letters GGUF")
        version = self._scalar("I")
        if version not in _VERSIONS:
            raise ValueError(f"version {version}, of which only {_VERSIONS} (little-endian) are read")
        tensor_count, field_count = self._scalar("Q"), self._scalar("Q")
        fields = {}
        for _ in range(field_count):
            key = self._string()
            if key in fields:
                raise ValueError(f"the metadata key {key} occurs twice")
            fields[key] = self._value(gguf.GGUFValueType(self._scalar("I")))
        infos, names = [], set()
        for _ in range(tensor_count):
            name = self._string()
            if name in names:
                raise ValueError(f"the tensor {name} occurs twice")
            names.add(name)
            dims = struct.unpack(f"<{(rank := self._scalar('I'))}Q", self._take(8 * rank))
            kind = gguf.GGMLQuantizationType(self._scalar("I"))
            infos.append((name, dims[::-1], kind, self._scalar("Q")))
        alignment = fields.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"general.alignment is {alignment!r}, not a positive number of bytes")
        return fields, infos, -(-self._at // alignment) * alignment

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) < count:
            raise EOFError
        self._at += count
        return taken

    def _scalar(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self._take(struct.calcsize(code)))[0]

    def _string(self) -> str:
        return self._take(self._scalar("Q")).decode("utf-8")

    def _value(self, kind: gguf.GGUFValueType) -> Any:
        if kind == gguf.GGUFValueType.STRING:
            return self._string()
        if kind != gguf.GGUFValueType.ARRAY:
            return self._scalar(_SCALARS[kind])
        element, count = gguf.GGUFValueType(self._scalar("I")), self._scalar("Q")
        if element in _SCALARS:
            code = _SCALARS[element]
            return list(struct.unpack(f"<{count}{code}", self._take(count * struct.calcsize(code))))
        if element == gguf.GGUFValueType.STRING:
            return self._strings(count)
        return [self._value(element) for _ in range(count)]

    def _strings(self, count: int) -> list[str]:
        """The strings of an array; a tokenizer has a hundred thousand, so that this is one plain loop."""
        data, at, strings = self._data, self._at, []
        for _ in range(count):
            (length,) = struct.unpack_from("<Q", data, at)
            at += 8
            if at + length > len(data):
                raise EOFError
            strings.append(data[at : at + length].decode("utf-8"))
            at += length
        self._at = at
        return strings


class GGUFWeights:
    """The tensors of a GGUF file under HuggingFace's keys and in its row order; a `WeightSource`."""

    def __init__(self, content: GGUFContent, config: dict[str, Any]):
        self._content = content
        self._names = {_hf_key(name): name for name in content.tensors if name != _ROPE_FACTORS}
        permuted = config["model_type"] == "llama"  # llama.cpp rotates qwen2 as HuggingFace does
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
        self._heads = heads if permuted else {}
        self.problems = ()
        self.lost = frozenset()

    def keys(self) -> Collection[str]:
        return self._names.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return self._content.tensors[self._names[key]].shape

    def read(self, key: str) -> np.ndarray:
        """Reads and dequantises one tensor, to float32 unless it is stored in float16 or float64."""
        tensor = _read_tensor(self._content, self._names[key])
        projection = re.search(r"\.(q_proj|k_proj)\.", key)
        return unpermute(tensor, self._heads[projection[1]]) if projection and self._heads else tensor


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undoes the row order in which llama.cpp stores the query and key projections of llama models.

    HuggingFace rotates feature i with feature i + d/2 of a head of width d, llama.cpp feature 2i with 2i + 1, and so
    its converter interleaves the two halves of every head.

    Args:
      rows: (heads * d, ...), a weight or a bias in llama.cpp's order.
      heads: number of heads that the rows are made of.

    Returns:
      The same rows in HuggingFace's order.
    """
    if rows.shape[0] % (2 * heads):
        return rows  # of a wrong shape, which the comparison with the model reports
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def hf_config(content: GGUFContent) -> dict[str, Any]:
    """Writes the metadata of a GGUF file as HuggingFace's `config.json` would have it.

    Raises:
      CheckpointError: if the architecture is not llama or qwen2, a needed key is absent, or a key asks for something
        that such a model does not have; it lists all of these.
    """
    fields = content.fields
    architecture = fields.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        known = " and ".join(map(repr, _ARCHITECTURES))
        raise CheckpointError(content.path, [f"architecture {architecture!r}; of GGUF files only {known} are read"])
    prefix = f"{architecture}."
    model = {key.removeprefix(prefix): _shortest(v) for key, v in fields.items() if key.startswith(prefix)}
    problems = []

    def take(key: str, *default: Any) -> Any:
        value = model.pop(key, *default) if default or key in model else None
        if value is None and not default:
            problems.append(f"the metadata key {prefix}{key} is absent")
        elif isinstance(value, list):
            problems.append(f"{prefix}{key} differs by layer: {value}")
            return None
        return value

    heads, width = take("attention.head_count"), take("embedding_length")
    head_dim = take("attention.key_length", width // heads if heads and width else None)
    for key in ("attention.value_length", "rope.dimension_count"):
        if (other := take(key, head_dim)) != head_dim:
            problems.append(f"{prefix}{key} is {other}, not the head width {head_dim}")
    theta, context = take("rope.freq_base", 10000.0), take("context_length")
    scaling = {"type": take("rope.scaling.type", None), "factor": take("rope.scaling.factor", None)}
    if (linear := take("rope.scale_linear", None)) not in (None, 1.0):  # how files of 2023 say it
        scaling = {"type": "linear", "factor": linear}
    take("rope.scaling.original_context_length", None)  # says where scaling begins; a linear one has no use for it
    take("rope.scaling.finetuned", None)
    config = {
        "architectures": [_ARCHITECTURES[architecture]],
        "model_type": architecture,
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": take("feed_forward_length"),
        "num_hidden_layers": take("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": take("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": context,
        "rms_norm_eps": take("attention.layer_norm_rms_epsilon"),
        "rope_theta": theta,
        "tie_word_embeddings": "output.weight" not in content.tensors,
        "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": fields.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": fields.get("tokenizer.ggml.padding_token_id"),
    }
    if architecture == "llama":  # Qwen2's biases are no setting
        config["attention_bias"] = any(name.endswith("attn_q.bias") for name in content.tensors)
    vocabulary = take("vocab_size", None)
    if "token_embd.weight" in content.tensors:
        vocabulary = content.tensors["token_embd.weight"].shape[0]
    config["vocab_size"] = vocabulary
    # What is left asks for something else (experts, sliding windows, ...), unless it is switched off.
    problems += [f"{prefix}{key} = {value!r} has no meaning for such a model" for key, value in model.items() if value]
    if problems:
        raise CheckpointError(content.path, problems)
    config["rope_scaling"] = _rope_scaling(content, scaling, theta, head_dim, context)
    return config


def _rope_scaling(
    content: GGUFContent, scaling: dict[str, Any], theta: float, head_dim: int, context: int
) -> dict[str, Any] | None:
    """The rope scaling as HuggingFace writes it; None if there is none."""
    kind = scaling["type"]
    if _ROPE_FACTORS in content.tensors:
        if kind not in (None, "none"):
            raise CheckpointError(content.path, [f"has both {_ROPE_FACTORS} and llama.rope.scaling.type {kind!r}"])
        factors = _read_tensor(content, _ROPE_FACTORS).astype(np.float64)
        found = llama3_scaling(factors, theta=theta, head_dim=head_dim, context=context)
        if found is None:
            message = f"{_ROPE_FACTORS} holds factors that no llama3 rope scaling of bands 1 and 4 gives: {factors}"
            raise CheckpointError(content.path, [message + "; load this model from its safetensors folder"])
        return found
    if kind in (None, "none"):
        return None
    if kind == "linear" and scaling["factor"]:
        return {"rope_type": "linear", "factor": scaling["factor"]}
    message = f"rope scaling {scaling} is not read; load this model from its safetensors folder"
    raise CheckpointError(content.path, [message])


def llama3_scaling(factors: np.ndarray, *, theta: float, head_dim: int, context: int) -> dict[str, Any] | None:
    """Finds the llama3 rope scaling that gives these divisors of the inverse frequencies.

    llama.cpp stores the divisors and not the settings. We look for the settings among those with the published bands
    (1 and 4) and an original context that is a power of two, and accept only what reproduces every divisor: the
    rotations are then the same, whatever the settings were called.

    Args:
      factors: (head_dim / 2,), the divisors, slowest rotation last.
      theta: base of the frequencies.
      head_dim: width of a head.
      context: longest context of the model, the largest original context that is tried.

    Returns:
      The scaling as HuggingFace writes it, or None if there is none that fits.
    """
    wavelength = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    if factors.shape != wavelength.shape:
        return None
    low, high, factor = 1.0, 4.0, float(factors.max())
    # Few frequencies do not tell neighbouring contexts apart; we then name the published one.
    for original in (8192, *(2**power for power in range(4, int(context).bit_length()))):
        smooth = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
        if np.allclose(factors, 1 / ((1 - smooth) / factor + smooth), rtol=1e-5, atol=0):
            return {
                "rope_type": "llama3",
                "factor": _shortest(factor),
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    return None


def _read_tensor(content: GGUFContent, name: str) -> np.ndarray:
    """Reads one tensor; float32 if it was quantised or bfloat16."""
    tensor = content.tensors[name]
    dtype = _PLAIN.get(tensor.type, np.uint8)
    # Not a memory map: the pages of one that stays open count as memory in use.
    raw = np.fromfile(content.path, dtype, tensor.nbytes // np.dtype(dtype).itemsize, offset=tensor.offset)
    if tensor.type in _PLAIN:
        return raw.reshape(tensor.shape)
    try:
        shape = gguf.quant_shape_to_byte_shape(tensor.shape, tensor.type)
        return gguf.dequantize(raw.reshape(shape), tensor.type)
    except (NotImplementedError, ValueError) as error:
        message = f"{name} of type {tensor.type.name} cannot be dequantised: {error}"
        raise CheckpointError(content.path, [message]) from error


def _hf_key(name: str) -> str:
    """The HuggingFace key of a tensor; a name that is not known stays, and so is reported as surplus."""
    match = re.fullmatch(r"(?:blk\.(?P<layer>\d+)\.)?(?P<stem>\w+)\.(?P<kind>weight|bias)", name)
    if match is None or match["stem"] not in _HF_NAMES:
        return name
    prefix = f"model.layers.{match['layer']}." if match["layer"] else ""
    return f"{prefix}{_HF_NAMES[match['stem']]}.{match['kind']}"


def _shortest(value: Any) -> Any:
    """The shortest decimal that is the same float32: 1e-05 and not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value
