import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.tree_util import Partial
from safetensors.numpy import load_file

from gmijax import models
from gmijax.models import Llava, LlavaConfig, Prismatic, PrismaticConfig, _composed
from gmijax.models._composed import Layout
from gmijax.scoring import next_token_loss
from gmijax.testing import parity

TINY = Path(__file__).parents[1] / "fixtures" / "tiny"
TOKEN = 39  # LLaVA's placeholder


def read(name):
    """A model, the arguments of its recorded call, and what the original gave."""
    model = models.load(TINY / name)
    inputs = load_file(TINY / name / "inputs.safetensors")
    media = model.Media(**{field: inputs[field] for field in model.Media._fields if field in inputs})
    ids, mask = (inputs[key].astype("i4") for key in ("input_ids", "attention_mask"))
    return model, ids, mask, media, inputs["labels"], load_file(TINY / name / "expected.safetensors")


@pytest.fixture(scope="module")
def llava():
    return read("llava_full")


@pytest.fixture(scope="module")
def prismatic():
    return read("prismatic_siglip_rows")


@nnx.jit(static_argnames=("hook_points", "logits"))
def forward(model, ids, media, mask, **options):
    return model(ids, media, attention_mask=mask, **options)


# Configs


def test_the_published_config_of_llava_resolves_as_in_transformers():
    folder = TINY.parent / "config_parsing"
    config = LlavaConfig.from_hf(json.loads((folder / "llava-1.5-7b-hf.json").read_text()))
    expected = json.loads((folder / "expected.json").read_text())["llava-1.5-7b-hf"]
    assert (config.image_token_id, config.feature_layers, config.keep_class_token) == (32000, (-2,), False)
    assert (config.projector_bias, config.depths, config.text.vocab_size) == (True, (23,), 32064)
    vision = expected["vision"]
    assert config.vision.activation == vision.pop("hidden_act")
    assert {field: getattr(config.vision, field) for field in vision} == vision
    assert (config.vision.patches, config.vision.prefix) == (576, 1)


def test_published_names_of_prismatic_stand_for_sizes():
    names = {"vision_backbone_id": "dinov2-vit-l", "llm_backbone_id": "vicuna-v15-7b"}
    config = PrismaticConfig.from_prismatic(names)
    assert (config.vision.hidden_size, config.vision.patches, config.vision.prefix) == (1024, 256, 5)
    assert (config.text.hidden_size, config.text.vocab_size, config.text.rms_norm_eps) == (4096, 32064, 1e-5)
    siglip = PrismaticConfig.from_prismatic(names | {"vision_backbone_id": "siglip-vit-so400m"}).vision
    assert (siglip.hidden_size, siglip.intermediate_size, siglip.num_hidden_layers, siglip.prefix) == (
        1152,
        4304,
        27,
        0,
    )


# Parity with the originals


@pytest.mark.parametrize(
    "name",
    [
        *("llava_full", "prismatic_siglip_rows"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("llava_layers", "prismatic_dinov2")),
    ],
)
def test_equals_its_original(name):
    result = parity.check_folder(TINY / name, tolerance=2e-5)
    assert result.errors == []
    assert result.passed, result.differences
    expected = {"adapter_output", "grad_adapter_output", "inputs_embeds", "llm_hidden_0", "llm_final", "logits", "loss"}
    assert expected <= result.differences.keys()


def test_each_row_alone_gives_the_same(llava):
    model, ids, mask, media, _, expected = llava
    for row, images in ((0, media.pixel_values), (1, media.pixel_values[:0])):
        own = Llava.Media(images) if len(images) else None
        output = forward(model, ids[row : row + 1], own, mask[row : row + 1], hook_points=("llm_final",))
        valid = mask[row] > 0
        for found, name in ((output.logits, "logits"), (output.hidden_states["llm_final"], "llm_final")):
            np.testing.assert_allclose(found[0][valid], expected[name][row][valid], rtol=0, atol=2e-5)


@settings(max_examples=10)
@given(left=st.integers(0, 7), seed=st.integers(0, 9))
def test_padding_side_and_neighbours_change_nothing(llava, left, seed):
    """The recorded first row, shifted right by padding on its left, beside other neighbours."""
    model, ids, mask, media, _, expected = llava
    rng = np.random.default_rng(seed)
    length = ids.shape[1] + 7
    batch, valid = rng.integers(1, TOKEN, (2, length)), np.ones((2, length), int)
    valid[0] = 0
    columns = slice(left, left + ids.shape[1])
    batch[0, columns], valid[0, columns] = ids[0], mask[0]
    images = np.concatenate([media.pixel_values, rng.standard_normal((1, 3, 14, 14)).astype("f4")])
    batch[1, 3:8] = TOKEN
    output = forward(model, batch, Llava.Media(images), valid, hook_points=("llm_hidden_0", "llm_final"))
    for name, states in {**output.hidden_states, "logits": output.logits}.items():
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(states[0, columns], expected[name][0], rtol=0, atol=1e-5 * scale, err_msg=name)


@pytest.mark.slow
@settings(max_examples=6)
@given(pads=st.lists(st.integers(0, 4), min_size=2, max_size=2))
def test_padding_on_either_side_changes_nothing_in_prismatic(prismatic, pads):
    """Row 2 with its image and row 3 without one, each shifted right by padding on its left."""
    model, ids, _, media, _, expected = prismatic
    batch, valid = np.full((2, 11), 5), np.zeros((2, 11), int)
    for row, (source, left) in enumerate(zip((2, 3), pads, strict=True)):
        batch[row, left : left + 7], valid[row, left : left + 7] = ids[source], 1
    own = Prismatic.Media(media.pixel_values[2:], np.array([0]))
    output = forward(model, batch, own, valid, hook_points=("llm_final",))
    with_image, alone = (output.hidden_states["llm_final"][row] for row in (0, 1))
    scale = np.abs(expected["llm_final"]).max()
    found = with_image[pads[0] : pads[0] + 16]
    np.testing.assert_allclose(found, expected["llm_final"][0], rtol=0, atol=1e-5 * scale)
    found = alone[pads[1] : pads[1] + 7]
    np.testing.assert_allclose(found, expected["llm_final"][3][:7], rtol=0, atol=1e-5 * scale)
    assert output.spans.start.tolist() == [pads[0] + 1]


# Masks, spans and layouts


def test_spans_and_masks_say_where_the_images_went(llava):
    model, ids, mask, media, _, _ = llava
    output = forward(model, ids, media, mask, hook_points=("encoder_output", "adapter_output", "llm_hidden_1"))
    np.testing.assert_array_equal(output.spans.row, [0, 0])
    np.testing.assert_array_equal(output.spans.start, [2, 9])
    np.testing.assert_array_equal(output.spans.stop, [7, 14])
    np.testing.assert_array_equal(output.layout.modality, ids == TOKEN)
    np.testing.assert_array_equal(output.masks["llm_hidden_1"], mask)
    assert {name: m.shape for name, m in output.masks.items()} == {
        "encoder_output": (2,),
        "adapter_output": (2, 5),
        "llm_hidden_1": ids.shape,
    }


def test_prismatic_puts_rows_with_images_first(prismatic):
    model, ids, mask, media, labels, expected = prismatic
    output = forward(model, ids, media, mask)
    np.testing.assert_array_equal(output.layout.rows, [2, 0, 1, 3])
    np.testing.assert_array_equal(output.spans.row, [0, 1])
    np.testing.assert_array_equal(output.spans.stop - output.spans.start, [9, 9])
    np.testing.assert_array_equal(output.layout.mask, expected["valid_mask"])
    np.testing.assert_array_equal(output.layout.place_labels(labels), expected["fused_labels"])
    every = forward(model, ids, Prismatic.Media(media.pixel_values, np.array([3, 1, 0, 2])), mask)
    np.testing.assert_array_equal(every.layout.rows, [3, 1, 0, 2])


def test_an_item_without_place_has_an_empty_span():
    soft = jnp.array([[-1, 0, 1, -1], [-1, -1, 4, 5]])
    spans = Layout(jnp.arange(2), soft, soft, soft >= 0).spans(3, 2)
    np.testing.assert_array_equal(spans.row, [0, 0, 1])
    np.testing.assert_array_equal(spans.start, [1, 0, 2])
    np.testing.assert_array_equal(spans.stop, [3, 0, 4])


def test_the_face_in_steps_is_the_call(llava):
    model, ids, mask, media, _, expected = llava
    encoded = model.encode(media, hook_points=("encoder_hidden_0", "encoder_output"))
    assert encoded.hidden_states.keys() == encoded.masks.keys() == {"encoder_hidden_0", "encoder_output"}
    soft = model.soft_tokens(media)
    np.testing.assert_allclose(soft.values, expected["adapter_output"], rtol=0, atol=2e-5)
    assert bool(soft.mask.all())
    merged = model.merge(ids, soft.values, media, attention_mask=mask)
    np.testing.assert_allclose(merged.embeddings[0], expected["inputs_embeds"][0], rtol=0, atol=2e-5)
    decoded = model.language_model(soft_tokens=merged.embeddings, attention_mask=merged.layout.mask)
    np.testing.assert_allclose(decoded.logits[0], expected["logits"][0], rtol=0, atol=2e-5)


def test_text_alone_is_the_language_model(llava):
    model, ids, mask, *_ = llava
    output = model(ids[1:], attention_mask=mask[1:], hook_points=("llm_hidden_0",))
    expected = model.language_model(ids[1:], attention_mask=mask[1:], hook_points=("llm_hidden_0",))
    np.testing.assert_array_equal(output.logits, expected.logits)
    np.testing.assert_array_equal(output.hidden_states["llm_hidden_0"], expected.hidden_states["llm_hidden_0"])
    assert output.spans is None
    assert not bool(output.layout.modality.any())


# Hook points and interventions


def poison(model, part, layers=slice(None)):
    """The model with NaN in every parameter of a part, or in some layers of it."""
    graph, state = nnx.split(model)
    leaves = [
        (path, leaf.replace(leaf[...].at[layers].set(jnp.nan)) if ".".join(map(str, path)).startswith(part) else leaf)
        for path, leaf in nnx.to_flat_state(state)
    ]
    return nnx.merge(graph, nnx.from_flat_state(leaves))


@pytest.mark.parametrize(
    ("names", "unused", "layers"),
    [
        (("encoder_hidden_0",), "vision_tower.layers", slice(1, None)),
        pytest.param(("encoder_inputs",), "vision_tower.layers", slice(None), marks=pytest.mark.slow),
        pytest.param(("encoder_output",), "projector", slice(None), marks=pytest.mark.slow),
        (("adapter_output",), "language_model", slice(None)),
        (("adapter_output", "llm_hidden_0"), "language_model.layers", slice(1, None)),
        pytest.param(("llm_hidden_1",), "language_model.norm", slice(None), marks=pytest.mark.slow),
    ],
)
def test_only_what_is_needed_runs(llava, names, unused, layers):
    model, ids, mask, media, _, _ = llava
    output = forward(poison(model, unused, layers), ids, media, mask, hook_points=names, logits=False)
    assert output.logits is None
    assert set(output.hidden_states) == set(names)
    for states in output.hidden_states.values():
        assert bool(jnp.isfinite(states).all())


@pytest.mark.parametrize(
    "name",
    [
        "adapter_output",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "encoder_hidden_0",
                "llm_hidden_0",
                "encoder_inputs",
                "encoder_hidden_1",
                "adapter_input",
                "inputs_embeds",
                "llm_hidden_1",
                "llm_final",
            )
        ),
    ],
)
def test_a_hook_point_takes_an_intervention(llava, name):
    """Adding nothing changes nothing; adding something changes what comes after and nothing before."""
    model, ids, mask, media, _, _ = llava
    order = tuple(point for point in model.hook_points if point not in ("encoder_output", "encoder_hidden_2"))
    run = nnx.jit(lambda m, edits: m(ids, media, attention_mask=mask, hook_points=order, interventions=edits))
    same, moved = (run(model, {name: Partial(jnp.add, jnp.float32(amount))}) for amount in (0, 0.5))
    reference = forward(model, ids, media, mask, hook_points=order)
    for index, point in enumerate(order):
        before = reference.hidden_states[point]
        scale = float(jnp.abs(before).max())
        np.testing.assert_allclose(same.hidden_states[point], before, rtol=0, atol=1e-5 * scale)
        if index < order.index(name):
            np.testing.assert_allclose(moved.hidden_states[point], before, rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(moved.hidden_states[name] - same.hidden_states[name], 0.5, rtol=0, atol=1e-4)
    assert float(jnp.abs(moved.logits - same.logits).max()) > 1e-3


def test_soft_tokens_stand_for_the_adapters_output(llava):
    model, ids, mask, media, _, _ = llava
    shift = np.random.default_rng(0).standard_normal((2, 5, 16)).astype("f4")
    edited = model(ids, media, attention_mask=mask, interventions={"adapter_output": lambda z: z + shift})
    given_tokens = model(ids, media, soft_tokens=model.soft_tokens(media).values + shift, attention_mask=mask)
    np.testing.assert_allclose(given_tokens.logits, edited.logits, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_an_edit_changes_later_positions_only(llava):
    model, ids, mask, media, _, _ = llava

    def edit(states):
        return states.at[:, 10].set(0)

    plain, edited = (
        model(ids, media, attention_mask=mask, interventions=given) for given in (None, {"llm_hidden_0": edit})
    )
    np.testing.assert_allclose(edited.logits[:, :10], plain.logits[:, :10], rtol=0, atol=1e-6)
    assert float(jnp.abs(edited.logits[:, 10:] - plain.logits[:, 10:]).max()) > 1e-3


def test_interventions_that_do_nothing_are_refused(llava):
    model, ids, _, media, _, _ = llava
    soft = model.soft_tokens(media).values
    with pytest.raises(ValueError, match="'llm_hidden_1' never fire"):
        model(ids, media, hook_points=("llm_hidden_0",), logits=False, interventions={"llm_hidden_1": jnp.sin})
    with pytest.raises(ValueError, match="'adapter_output' never fire"):
        model(ids[1:], interventions={"adapter_output": jnp.sin})
    with pytest.raises(ValueError, match="'encoder_hidden_0' never fire"):
        model(ids, media, soft_tokens=soft, interventions={"encoder_hidden_0": jnp.sin})
    with pytest.raises(ValueError, match=r"'encoder_output' changes nothing: .*'adapter_input'"):
        model(ids, media, interventions={"encoder_output": jnp.sin})
    with pytest.raises(ValueError, match=r"'llm_hidden_0' returns shape \(2, 16\) for states of shape \(2, 24, 16\)"):
        model(ids, media, interventions={"llm_hidden_0": lambda x: x[:, 0]})
    with pytest.raises(ValueError, match="unknown interventions 'llm_hidden_7'; valid are 'encoder_inputs', 'encoder"):
        model(ids, media, interventions={"llm_hidden_7": jnp.sin})


def test_a_hook_point_that_is_not_passed_is_refused(llava):
    model, ids, _, media, _, _ = llava
    with pytest.raises(ValueError, match="'adapter_output' are not passed: media were not given"):
        model(ids[1:], hook_points=("adapter_output",))
    with pytest.raises(ValueError, match="'encoder_inputs' are not passed: soft_tokens were given"):
        model(ids, media, soft_tokens=model.soft_tokens(media).values, hook_points=("encoder_inputs",))
    with pytest.raises(ValueError, match="'llm_final' lie behind the encoder"):
        model.encode(media, hook_points=("llm_final",))


def test_other_arrays_in_an_intervention_compile_nothing_anew(llava):
    model, ids, mask, media, _, _ = llava
    sizes = []
    for k in range(3):
        add = Partial(jnp.add, jnp.full(16, float(k)))
        model(ids, media, attention_mask=mask, hook_points=("llm_hidden_1",), interventions={"llm_hidden_0": add})
        sizes.append(_composed._jitted._cache_size())
    assert sizes[0] == sizes[1] == sizes[2]


# Gradients


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava_layers", "prismatic_siglip_rows"])
def test_rematerialisation_changes_no_gradient(name):
    model, ids, mask, media, labels, expected = read(name)

    def loss(soft, remat):
        output = model(ids, media, soft_tokens=soft, attention_mask=mask, remat=remat)
        return next_token_loss(output.logits, output.layout.place_labels(labels))

    soft = jnp.asarray(expected["adapter_output"])
    for remat in (False, True):
        gradient = jax.jit(jax.grad(loss), static_argnums=1)(soft, remat)
        np.testing.assert_allclose(gradient, expected["grad_adapter_output"], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_half_precision_is_close(llava):
    _, ids, mask, media, _, expected = llava
    half = models.load(TINY / "llava_full", dtype=jnp.bfloat16)
    output = half(ids, media, attention_mask=mask, hook_points=("adapter_output", "llm_final"))
    assert output.logits.dtype == jnp.float32
    for name, states in output.hidden_states.items():
        assert states.dtype == jnp.bfloat16
        valid = np.ones(states.shape[:2], bool) if name == "adapter_output" else mask > 0
        error = np.asarray(states, "f4")[valid] - expected[name][valid]
        assert np.sqrt(np.mean(error**2)) < 0.02 * np.sqrt(np.mean(expected[name][valid] ** 2)), name


# Inputs that do not fit


def test_inputs_are_checked(llava, prismatic):
    model, ids, _, media, _, _ = llava
    with pytest.raises(ValueError, match=r"10 placeholders \(id 39\) for the 5 soft tokens of the images"):
        model(ids, Llava.Media(media.pixel_values[:1]))
    with pytest.raises(ValueError, match=r"media is a ndarray; give Llava.Media\(pixel_values\)"):
        model(ids, media.pixel_values)
    with pytest.raises(ValueError, match="soft_tokens need media"):
        model(ids, soft_tokens=np.zeros((2, 5, 16), "f4"))
    with pytest.raises(ValueError, match=r"soft_tokens have shape \(2, 4, 16\); these media give \(2, 5, 16\)"):
        model(ids, media, soft_tokens=np.zeros((2, 4, 16), "f4"))
    with pytest.raises(ValueError, match=r"pixel_values have shape \(2, 3, 15, 14\)"):
        model(ids, Llava.Media(np.zeros((2, 3, 15, 14), "f4")))
    model, ids, _, media, _, _ = prismatic
    with pytest.raises(ValueError, match="3 images for the 4 rows"):
        model(ids, Prismatic.Media(media.pixel_values[:3]))
    for rows in ([0, 0], [4], [-1]):
        with pytest.raises(ValueError, match="multimodal_indices"):
            model(ids, Prismatic.Media(media.pixel_values, np.array(rows)))


def test_too_many_places_are_loud_under_a_trace(llava):
    model, ids, mask, media, _, _ = llava
    extra = ids.copy()
    extra[0, 0] = TOKEN
    logits = forward(model, extra, media, mask).logits
    assert bool(jnp.isnan(logits[0, -1]).all())
