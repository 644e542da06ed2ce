"""Encoder checkpoints: there and back without changing a bit, and what is refused."""

import ml_dtypes
import numpy as np
import pytest

from knotjax.convert import clip_vision, umt5, wav2vec2
from knotjax.convert.keymap import check_tensors
from knotjax.errors import InputError
from knotjax.weights import flatten
from tests.models.encoders import CLIP, SHAPES, UMT5, WAV2VEC2, golden, random_params

CASES = {
    "umt5": (
        lambda tensors: umt5.from_hugging_face(tensors, UMT5),
        umt5.to_hugging_face,
    ),
    "wav2vec2_base": (
        lambda tensors: wav2vec2.from_hugging_face(tensors, WAV2VEC2["base"]),
        lambda params: wav2vec2.to_hugging_face(params, WAV2VEC2["base"]),
    ),
    "wav2vec2_large": (
        lambda tensors: wav2vec2.from_hugging_face(tensors, WAV2VEC2["large"]),
        lambda params: wav2vec2.to_hugging_face(params, WAV2VEC2["large"]),
    ),
    "clip_vision": (
        lambda tensors: clip_vision.from_hugging_face(tensors, CLIP),
        clip_vision.to_hugging_face,
    ),
    "umt5, Wan's names": (
        lambda tensors: umt5.from_wan(tensors, UMT5),
        umt5.to_wan,
    ),
}


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype and first[name].shape == second[name].shape, name
        assert first[name].tobytes() == second[name].tobytes(), name


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", list(CASES))
def test_there_and_back(name, dtype):
    load, save = CASES[name]
    params = random_params(SHAPES[name.split(",")[0]], dtype=dtype)
    tensors = save(params)
    same(flatten(load(tensors)), flatten(params))
    same(save(load(tensors)), tensors)


@pytest.mark.parametrize("name", list(CASES)[:4])
def test_every_tensor_of_pytorch_comes_back(name):
    load, save = CASES[name]
    weights, _ = golden(name)
    back = save(load(weights))
    weights.pop("masked_spec_embed", None)
    for parametrized, plain in (("original0", "weight_g"), ("original1", "weight_v")):
        old = f"encoder.pos_conv_embed.conv.parametrizations.weight.{parametrized}"
        if old in weights:
            weights[old.replace(f"parametrizations.weight.{parametrized}", plain)] = weights.pop(old)
    if name == "clip_vision":
        weights = {f"vision_model.{key}": tensor for key, tensor in weights.items()}
    same(back, weights)


def test_both_names_of_umt5_hold_the_same():
    params = random_params(SHAPES["umt5"])
    wan = umt5.to_wan(params)
    assert {"token_embedding.weight", "blocks.2.pos_embedding.embedding.weight", "norm.weight"} <= wan.keys()
    assert wan["blocks.1.ffn.gate.0.weight"].shape == (UMT5.ffn_dim, UMT5.width)
    face = umt5.to_hugging_face(params)
    np.testing.assert_array_equal(
        wan["blocks.1.ffn.gate.0.weight"], face["encoder.block.1.layer.1.DenseReluDense.wi_0.weight"]
    )
    same(flatten(umt5.from_wan(wan, UMT5)), flatten(umt5.from_hugging_face(face, UMT5)))


def test_umt5_token_table_may_stand_twice():
    params = random_params(SHAPES["umt5"])
    tensors = umt5.to_hugging_face(params)
    twice = tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"]}
    same(flatten(umt5.from_hugging_face(twice, UMT5)), flatten(params))
    twice.pop("shared.weight")
    same(flatten(umt5.from_hugging_face(twice, UMT5)), flatten(params))
    with pytest.raises(InputError, match=r"shared\.weight and encoder\.embed_tokens\.weight differ"):
        umt5.from_hugging_face(twice | {"shared.weight": tensors["shared.weight"] + 1}, UMT5)


def test_wav2vec2_files_with_a_task():
    """base-960h carries a letter head, chinese-wav2vec2-base the quantizer of its pre-training."""
    params = random_params(SHAPES["wav2vec2_base"])
    plain = wav2vec2.to_hugging_face(params, WAV2VEC2["base"])
    small = np.ones(3, np.float32)
    task = {"wav2vec2.masked_spec_embed": small, "quantizer.codevectors": small, "quantizer.weight_proj.bias": small}
    task |= {"project_q.weight": small, "project_hid.bias": small, "lm_head.weight": small}
    file = {f"wav2vec2.{name}": tensor for name, tensor in plain.items()} | task
    same(flatten(wav2vec2.from_hugging_face(file, WAV2VEC2["base"])), flatten(params))


def test_clip_files_with_and_without_prefix():
    params = random_params(SHAPES["clip_vision"])
    file = clip_vision.to_hugging_face(params)
    assert all(name.startswith("vision_model.") for name in file)
    file["vision_model.embeddings.position_ids"] = np.arange(CLIP.tokens)[None]
    same(flatten(clip_vision.from_hugging_face(file, CLIP)), flatten(params))
    bare = {name.removeprefix("vision_model."): tensor for name, tensor in file.items()}
    same(flatten(clip_vision.from_hugging_face(bare, CLIP)), flatten(params))


@pytest.mark.parametrize("name", list(CASES))
def test_every_fault_is_named_in_one_line(name):
    load, save = CASES[name]
    tensors = save(random_params(SHAPES[name.split(",")[0]]))
    missing, misshapen = sorted(tensors)[1], sorted(tensors)[4]
    tensors.pop(missing)
    tensors[misshapen] = tensors[misshapen][..., :-1]
    tensors |= {"decoder.strange": np.ones(2), "another": np.ones(2)}
    with pytest.raises(InputError) as error:
        load(tensors)
    message = str(error.value)
    assert "\n" not in message
    for tensor in (missing, misshapen):
        assert tensor.removeprefix("vision_model.") in message
    assert "unknown: another, decoder.strange" in message
    assert str(tensors[misshapen].shape) in message


def test_long_lists_are_cut():
    with pytest.raises(InputError, match=r"missing: t00, .*t19 and 5 more\)") as error:
        check_tensors({f"t{i:02}": (1,) for i in range(25)}, {}, "checkpoint")
    assert "t20" not in str(error.value)


def test_layers_of_different_kinds_are_refused():
    tensors = umt5.to_wan(random_params(SHAPES["umt5"]))
    tensors["blocks.1.attn.q.weight"] = tensors["blocks.1.attn.q.weight"].astype(np.float16)
    with pytest.raises(InputError, match=r"blocks\.1\.attn\.q\.weight is float16, layer 0 float32"):
        umt5.from_wan(tensors, UMT5)
