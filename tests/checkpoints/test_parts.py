"""Composed models: parts in several places, other namings, and everything that can be wrong with them."""

import json
import shutil
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from gmijax.checkpoints import CheckpointError, load_model
from gmijax.models import ConfigError, Llava, Prismatic, ViT

TINY = Path(__file__).parents[1] / "fixtures" / "tiny"
HEAD, EMBED = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
QUERY = "vision_tower.encoder.layers.{}.self_attn.q_proj.weight"


def leaves(model) -> dict[str, np.ndarray]:
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(model))}


def assert_same(found, expected):
    found, expected = leaves(found), leaves(expected)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def refusal(path, **parts) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(path, **parts)
    return str(caught.value)


def edit_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


@pytest.fixture
def llava(tmp_path) -> Path:
    return Path(shutil.copytree(TINY / "llava_full", tmp_path / "llava"))


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    return load_file(TINY / "llava_full" / "model.safetensors")


@pytest.fixture
def prismatic(tmp_path) -> Path:
    return Path(shutil.copytree(TINY / "prismatic_dinov2", tmp_path / "prismatic"))


# Other namings, other places


def test_names_of_transformers_5_load(llava, tensors):
    def renamed(key):
        key = key.replace("language_model.model.", "language_model.").replace("language_model.lm_head", "lm_head")
        return key if key.startswith("lm_head") else f"model.{key}"

    save_file({renamed(key): tensor for key, tensor in tensors.items()}, llava / "model.safetensors")
    assert_same(load_model(llava), load_model(TINY / "llava_full"))


def test_names_of_transformers_4_load(llava, tensors):
    old = {key.replace("vision_tower.", "vision_tower.vision_model."): tensor for key, tensor in tensors.items()}
    old["vision_tower.vision_model.embeddings.position_ids"] = np.arange(5, dtype=np.float32)[None]
    save_file(old, llava / "model.safetensors")
    assert_same(load_model(llava), load_model(TINY / "llava_full"))


def split_text(folder: Path, tensors, where: Path) -> None:
    """Moves the language model to a folder of its own."""
    where.mkdir()
    prefix = "language_model."
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    save_file(own, where / "model.safetensors")
    save_file({k: t for k, t in tensors.items() if not k.startswith(prefix)}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (where / "config.json").write_text(json.dumps(config["text_config"] | {"architectures": ["LlamaForCausalLM"]}))


def test_the_language_model_may_lie_elsewhere(llava, tensors, tmp_path):
    split_text(llava, tensors, tmp_path / "vicuna")
    assert_same(load_model(llava, text_model=tmp_path / "vicuna"), load_model(TINY / "llava_full"))
    message = refusal(llava)
    assert f"missing: no tensor for language_model.embed.embedding; its key is {EMBED}" in message
    assert "no such file or folder" in refusal(llava, text_model=tmp_path / "nowhere")


def test_a_head_is_tied_where_a_config_says_so_and_none_is_stored(llava, tensors):
    tied = {key: tensor for key, tensor in tensors.items() if key != HEAD}
    edit_config(llava, tie_word_embeddings=True)
    assert "language_model.head.kernel" in leaves(load_model(llava))  # stored, whatever the top of the config says
    save_file(tied, llava / "model.safetensors")
    assert "language_model.head.kernel" not in leaves(load_model(llava))
    edit_config(llava, tie_word_embeddings=False)
    assert "missing: no tensor for language_model.head.kernel" in refusal(llava)


def test_bfloat16_shards_load(llava, tensors):
    halves = {key: tensor.astype(ml_dtypes.bfloat16) for key, tensor in tensors.items()}
    (llava / "model.safetensors").unlink()
    index = {}
    for name, keys in (("a.safetensors", list(halves)[::2]), ("b.safetensors", list(halves)[1::2])):
        save_file({key: halves[key] for key in keys}, llava / name)
        index |= dict.fromkeys(keys, name)
    (llava / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    found = leaves(load_model(llava))
    np.testing.assert_array_equal(found["language_model.embed.embedding"], halves[EMBED].astype("f4"))


@pytest.mark.parametrize("file", ["model.safetensors", None])
def test_an_encoder_of_timm_may_be_named_as_file_or_folder(prismatic, tmp_path, file):
    elsewhere = tmp_path / "timm"
    (prismatic / "vision_backbone").rename(elsewhere)
    assert "give encoder_model=" in refusal(prismatic)
    found = load_model(prismatic, encoder_model=elsewhere / file if file else elsewhere)
    assert_same(found, load_model(TINY / "prismatic_dinov2"))


def test_an_encoder_inside_the_run_is_read_if_there_is_no_other(tmp_path):
    """Its positions are resampled already."""
    source = TINY / "prismatic_siglip_rows"
    folder = Path(shutil.copytree(source, tmp_path / "run"))
    shutil.rmtree(folder / "vision_backbone")
    found, expected = leaves(load_model(folder)), leaves(load_model(source))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5, err_msg=name)


def test_timm_alone(tmp_path):
    folder = Path(shutil.copytree(TINY / "prismatic_dinov2" / "vision_backbone", tmp_path / "timm"))
    (folder / "config.json").write_text(json.dumps({"architecture": "vit_large_patch14_reg4_dinov2", "num_classes": 0}))
    message = refusal(folder)  # of the tiny size, which the name does not say
    assert "misshapen: reg_token has shape (1, 4, 12), the model expects (4, 1024)" in message
    assert "in layers 3, 4" in message


def test_published_sizes_need_no_files_beside_the_run(prismatic):
    (prismatic / "tiny.json").unlink()
    shutil.rmtree(prismatic / "llm")
    message = refusal(prismatic)
    assert "the model expects (32064, 4096)" in message  # Vicuna's 32000, a token more, padded to 64
    assert "the model expects (3072, 1024)" in message


# Damage


def mutate_missing(tensors):
    del tensors[QUERY.format(1)], tensors["multi_modal_projector.linear_1.bias"]


def mutate_surplus(tensors):
    tensors["vision_tower.encoder.layers.9.layer_norm1.weight"] = np.ones(12, "f4")
    tensors["multi_modal_projector.linear_3.weight"] = np.ones((2, 2), "f4")


def mutate_misshapen(tensors):
    tensors["multi_modal_projector.linear_1.weight"] = np.ascontiguousarray(
        tensors["multi_modal_projector.linear_1.weight"].T
    )


def mutate_duplicate(tensors):
    tensors["lm_head.weight"] = tensors[HEAD]


def mutate_nan(tensors):
    tensors[QUERY.format(2)][0, 0] = np.nan


MUTATIONS = [
    (
        mutate_missing,
        [
            "no tensor for vision_tower.layers.qkv.kernel, part 1 of 3 in layers 1",
            "no tensor for projector.linear_1.bias",
        ],
    ),
    (mutate_surplus, ["surplus key vision_tower", "3 layers", "surplus key multi_modal_projector.linear_3"]),
    (mutate_misshapen, ["misshapen: multi_modal_projector.linear_1.weight has shape (12, 16)", "expects (16, 12)"]),
    (mutate_duplicate, [f"duplicate: {HEAD} and lm_head.weight both fill language_model.head.kernel"]),
    (mutate_nan, [f"{QUERY.format(2)} holds NaN or infinity"]),
]


@pytest.mark.parametrize(("mutate", "words"), MUTATIONS, ids=[mutate.__name__ for mutate, _ in MUTATIONS])
def test_a_mutated_checkpoint_is_refused(llava, tensors, mutate, words):
    mutate(tensors)
    save_file(tensors, llava / "model.safetensors")
    message = refusal(llava)
    for word in words:
        assert word in message


def test_everything_wrong_is_told_at_once(llava, tensors):
    for mutate, _ in MUTATIONS:
        mutate(tensors)
    save_file(tensors, llava / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_model(llava)
    assert len(caught.value.problems) == 7


def test_unknown_settings_are_told_with_their_part(llava):
    config = json.loads((llava / "config.json").read_text())
    edit_config(
        llava,
        text_config=config["text_config"] | {"rope_theta": "big", "attention_sinks": 4},
        vision_config=config["vision_config"] | {"hidden_act": "relu"},
        projector_hidden_act="relu",
        vision_feature_select_strategy="some",
        multiscale=True,
    )
    with pytest.raises(ConfigError) as caught:
        load_model(llava)
    message = str(caught.value)
    for word in (
        *("text_config: rope_theta = 'big'", "text_config: attention_sinks = 4", "vision_config: hidden_act = 'relu'"),
        *("projector_hidden_act = 'relu'", "vision_feature_select_strategy = 'some'", "multiscale = True"),
    ):
        assert word in message, word
    edit_config(llava, text_config={"model_type": "mamba"}, vision_config=3)
    with pytest.raises(
        ConfigError, match=r"(?s)'mamba' is not one of llama, qwen2.*vision_config = 3: must be an object"
    ):
        load_model(llava)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_feature_layer": 7}, "there are 4 hidden states, -4 to 3"),
        ({"vision_feature_layer": [-2, "x"]}, "must be integers"),
        ({"vision_feature_layer": []}, "vision_feature_layer is empty"),
        ({"image_token_id": 3}, "image_token_id is 3 and image_token_index 39; keep one"),
        ({"image_token_index": -1}, "must not be negative"),
    ],
)
def test_contradictory_settings_of_llava(llava, changes, message):
    config = json.loads((llava / "config.json").read_text())
    if "image_token_id" in changes:
        config["image_token_index"] = config.pop("image_token_id", config.get("image_token_index"))
        edit_config(llava, **{"image_token_index": config["image_token_index"]})
    edit_config(llava, **changes)
    with pytest.raises(ConfigError, match=message):
        load_model(llava)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch_specifier": "no-align+moe"}, "arch_specifier = 'no-align+moe': ends in none of"),
        ({"vision_backbone_id": "clip-vit-l"}, None),  # tiny.json names the architecture
        ({"image_resize_strategy": "stretch"}, "image_resize_strategy = 'stretch'"),
        ({"rotary": True}, "rotary = True is not known"),
    ],
)
def test_settings_of_prismatic(prismatic, changes, message):
    config = json.loads((prismatic / "config.json").read_text())
    edit_config(prismatic, model=config["model"] | changes)
    if message is None:
        assert isinstance(load_model(prismatic), Prismatic)
        return
    with pytest.raises(ConfigError, match=message.replace("+", r"\+")):
        load_model(prismatic)


def test_damage_in_any_part_of_prismatic_is_told(prismatic):
    vision = load_file(prismatic / "vision_backbone" / "model.safetensors")
    vision["blocks.0.ls1.gamma"][0] = np.inf
    vision["pos_embed"] = vision["pos_embed"][:, :-1]
    del vision["reg_token"]
    vision["head.weight"] = np.ones((2, 12), "f4")
    save_file(vision, prismatic / "vision_backbone" / "model.safetensors")
    message = refusal(prismatic)
    for word in ("blocks.0.ls1.gamma holds NaN", "misshapen: ", "pos_embed has shape (1, 24, 12)", "register_tokens"):
        assert word in message, word
    assert "surplus key vision_backbone.featurizer.head.weight" in message


def test_a_short_run_is_refused(prismatic):
    file = prismatic / "checkpoints" / "latest-checkpoint.pt"
    file.write_bytes(file.read_bytes()[:-100])
    assert "is cut short" in refusal(prismatic)


def test_a_run_without_a_model_is_refused(prismatic):
    file = prismatic / "checkpoints" / "latest-checkpoint.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}.")
    assert "holds no dictionary under model" in refusal(prismatic)


def test_parts_that_a_model_does_not_have_are_refused(llava):
    with pytest.raises(ValueError, match=r"encoder_model = .* has no such part elsewhere"):
        load_model(llava, encoder_model=llava)
    with pytest.raises(ValueError, match=r"text_model = .* has no such part elsewhere"):
        load_model(TINY / "qwen2", text_model=llava)


def test_classes_are_found():
    for name, kind in (("llava_full", Llava), ("prismatic_dinov2", Prismatic), ("siglip", ViT), ("dinov2", ViT)):
        assert type(load_model(TINY / name)) is kind
