"""DiT checkpoints: there and back without changing a bit, found from their names, and what is refused."""

import dataclasses
import re

import ml_dtypes
import numpy as np
import pytest

from knotjax import checkpoints
from knotjax.cli import main
from knotjax.convert import clip_vision, dit, layouts
from knotjax.convert.keymap import places
from knotjax.convert.lora import Adapted
from knotjax.convert.tensors import SafeTensors, open_tensors, write_tensors
from knotjax.errors import InputError
from knotjax.models.dit_config import DiTConfig
from knotjax.presets import PRESETS
from knotjax.weights import flatten
from tests.models.encoders import CLIP, SHAPES, random_params

SMALL = DiTConfig(latent_channels=3, inputs="plain", dim=128, ffn_dim=48, heads=1, layers=4, freq_dim=16, text_dim=6)
PIXEL_FRAMES = dict(audio_form="pixel_frames", audio_tokens=3, audio_width=10, audio_hidden=12, audio_window=(8, 6))
CONFIGS = {
    "plain": SMALL,
    "inpaint": dataclasses.replace(SMALL, inputs="inpaint"),
    "image": dataclasses.replace(SMALL, inputs="image", image_tokens=257, image_width=20),
    "omniavatar": dataclasses.replace(
        SMALL,
        inputs="inpaint",
        audio_form="added",
        audio_tokens=1,
        audio_width=5,
        audio_window=(4, 7),
        audio_hidden=512,
    ),
    "liveact": dataclasses.replace(
        SMALL, inputs="image", image_tokens=257, image_width=20, memory_ratio=5, **PIXEL_FRAMES
    ),
}


def draw(config, names="wan", seed=0, dtype=np.float32):
    """A checkpoint of which no number is zero and no two tensors are alike."""
    rng = np.random.default_rng(seed)
    rows = places(dit.table(config, names), dit.shapes(config))
    return {name: rng.uniform(0.5, 1.5, shape).astype(dtype) for row in rows.values() for name, shape in row}


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype and first[name].shape == second[name].shape, name
        assert first[name].tobytes() == second[name].tobytes(), name


def save(path, tensors):
    write_tensors(path, {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}, tensors.items())
    return path


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_there_and_back(name, dtype):
    config = CONFIGS[name]
    tensors = draw(config, dtype=dtype)
    params = dit.from_wan(tensors, config)
    same(dit.to_wan(params, config), tensors)
    found = {name: tensor.shape for name, tensor in tensors.items()}
    assert dit.config_of(found, "wan") == config
    if not config.audio_tokens:
        theirs = dit.to_diffusers(params, config)
        same(flatten(dit.from_diffusers(theirs, config)), flatten(params))
        assert dit.config_of({name: tensor.shape for name, tensor in theirs.items()}, "diffusers") == config


def test_the_two_norms_change_names():
    """Wan's affine norm3 is diffusers' norm2; both heads and modulation tables are renamed."""
    config = CONFIGS["image"]
    tensors = draw(config)
    theirs = dit.to_diffusers(dit.from_wan(tensors, config), config)
    for wan, diffusers in {
        "blocks.3.norm3.bias": "blocks.3.norm2.bias",
        "blocks.2.self_attn.o.weight": "blocks.2.attn1.to_out.0.weight",
        "blocks.1.cross_attn.norm_k_img.weight": "blocks.1.attn2.norm_added_k.weight",
        "blocks.0.modulation": "blocks.0.scale_shift_table",
        "head.modulation": "scale_shift_table",
        "head.head.weight": "proj_out.weight",
        "time_projection.1.bias": "condition_embedder.time_proj.bias",
        "img_emb.proj.3.weight": "condition_embedder.image_embedder.ff.net.2.weight",
    }.items():
        np.testing.assert_array_equal(theirs[diffusers], tensors[wan])


def test_names_and_shapes_of_the_published_files():
    def published(name):
        config = PRESETS[name]
        rows = places(dit.table(config, "wan"), dit.shapes(config))
        return dict(row for rows in rows.values() for row in rows)

    rows = published("wan2.1-t2v-1.3b")
    assert len(rows) == 825
    for name, shape in {
        "patch_embedding.weight": (1536, 16, 1, 2, 2),
        "text_embedding.0.weight": (1536, 4096),
        "time_projection.1.weight": (9216, 1536),
        "blocks.29.modulation": (1, 6, 1536),
        "blocks.7.ffn.2.weight": (1536, 8960),
        "head.modulation": (1, 2, 1536),
        "head.head.weight": (64, 1536),
    }.items():
        assert rows[name] == shape, name
    rows = published("omniavatar-1.3b")
    for name, shape in {
        "patch_embedding.weight": (1536, 33, 1, 2, 2),
        "audio_proj.proj.weight": (32, 43008),
        "audio_cond_projs.13.weight": (1536, 32),
    }.items():
        assert rows[name] == shape, name
    assert "audio_cond_projs.14.weight" not in rows
    rows = published("liveact-14b")
    for name, shape in {
        "patch_embedding.weight": (5120, 36, 1, 2, 2),
        "audio_proj.proj1.weight": (512, 46080),
        "audio_proj.proj1_vf.weight": (512, 73728),
        "audio_proj.proj3.weight": (24576, 512),
        "blocks.39.audio_cross_attn.kv_linear.weight": (10240, 768),
        "blocks.39.norm_x.weight": (5120,),
        "blocks.0.self_attn.memory_proj_k.weight": (5120, 1, 5),
        "img_emb.proj.1.weight": (1280, 1280),
    }.items():
        assert rows[name] == shape, name


def test_patches_and_memory_keep_their_meaning():
    """The patch embedding reads channels fastest, then columns; a memory kernel weighs frames, channel by channel."""
    config = CONFIGS["liveact"]
    tensors = draw(config)
    params = dit.from_wan(tensors, config)
    kernel = params["patch_embedding"]["kernel"].reshape(2, 2, config.in_channels, config.dim)
    np.testing.assert_array_equal(kernel[1, 0, 2], tensors["patch_embedding.weight"][:, 2, 0, 1, 0])
    weights = params["blocks"]["block0"]["memory_k"]
    np.testing.assert_array_equal(weights[3][4], tensors["blocks.3.self_attn.memory_proj_k.weight"][:, 0, 4])


def test_command_there_and_back(tmp_path, capsys):
    tensors = draw(CONFIGS["liveact"], dtype=ml_dtypes.bfloat16)
    first = save(tmp_path / "a.safetensors", tensors)
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.safetensors"
    assert main(["convert", str(first), str(ours)]) == 0
    assert main(["convert", str(ours), str(back), "--to", "wan"]) == 0
    same(dict(SafeTensors(back)), tensors)
    assert "dit" in capsys.readouterr().out
    checkpoint = layouts.read(ours)
    assert checkpoint.config == CONFIGS["liveact"] and checkpoint.names == "knotjax"
    assert main(["convert", str(first), str(ours)]) == 2  # nothing is overwritten
    assert "exists" in capsys.readouterr().err
    assert main(["convert", str(first), str(ours), "--overwrite", "--dtype", "float32"]) == 0
    assert layouts.read(ours).parameters["blocks/block0/q/kernel"].dtype == np.float32
    assert main(["convert", str(first), str(tmp_path / "d.safetensors"), "--to", "diffusers"]) == 2
    assert "no sound branch" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.part")) and not (tmp_path / "d.safetensors").exists()


def test_folder_of_several_files(tmp_path):
    tensors = draw(SMALL)
    names = sorted(tensors)
    save(tmp_path / "model-00001-of-00002.safetensors", {name: tensors[name] for name in names[::2]})
    save(tmp_path / "model-00002-of-00002.safetensors", {name: tensors[name] for name in names[1::2]})
    checkpoint = layouts.read(tmp_path)
    same(dict(checkpoint.parameters), flatten(dit.from_wan(tensors, SMALL)))


def test_wrappers_are_taken_off(tmp_path):
    tensors = draw(SMALL)
    wrapped = {
        "model._fsdp_wrapped_module." + name.replace("blocks.1.", "blocks.1._fsdp_wrapped_module."): tensor
        for name, tensor in tensors.items()
    }
    checkpoint = layouts.read(save(tmp_path / "a.safetensors", wrapped))
    same(dict(checkpoint.parameters), flatten(dit.from_wan(tensors, SMALL)))


def test_every_fault_is_named(tmp_path, capsys):
    tensors = draw(SMALL)
    del tensors["blocks.2.ffn.0.bias"]
    tensors["blocks.1.norm3.weight"] = tensors["blocks.1.norm3.weight"][:-1]
    tensors |= {"blocks.0.lost": np.ones(2, np.float32), "another": np.ones(2, np.float32)}
    path = save(tmp_path / "a.safetensors", tensors)
    assert main(["convert", str(path), str(tmp_path / "b.safetensors")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for part in ("missing: blocks.2.ffn.0.bias", "unknown: another, blocks.0.lost", r"blocks.1.norm3.weight (127,)"):
        assert part in error
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("fault", ["cut", "no header", "unknown kind", "empty", "missing", "other model"])
def test_damaged_files_are_refused_in_one_line(fault, tmp_path, capsys):
    path = save(tmp_path / "a.safetensors", draw(SMALL))
    data = path.read_bytes()
    if fault == "missing":
        path.unlink()
    elif fault == "other model":
        save(path, {"layer.weight": np.ones((2, 3), np.float32)})
    else:
        path.write_bytes(
            {
                "cut": data[:-10],
                "no header": b"\xff" * 100,
                "unknown kind": data.replace(b'"F32"', b'"F99"', 1),
                "empty": b"",
            }[fault]
        )
    assert main(["convert", str(path), str(tmp_path / "b.safetensors")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "a.safetensors" in error


def test_adapter_of_low_rank():
    base, rng = draw(SMALL), np.random.default_rng(1)
    down, up = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 128), (128, 16)))
    patches = rng.standard_normal((128, 7, 1, 2, 2)).astype(np.float32)
    adapter = {
        "blocks.1.self_attn.q.lora_A.default.weight": down,
        "blocks.1.self_attn.q.lora_B.default.weight": up,
        "patch_embedding.weight": patches,
    }
    merged = Adapted(base, adapter)
    expected = base["blocks.1.self_attn.q.weight"].astype(np.float64) + 64 / 16 * up.astype(np.float64) @ down
    np.testing.assert_allclose(merged["blocks.1.self_attn.q.weight"], expected, rtol=1e-5, atol=1e-5)
    assert np.max(np.abs(expected - base["blocks.1.self_attn.q.weight"])) > 1
    np.testing.assert_array_equal(merged["blocks.0.self_attn.q.weight"], base["blocks.0.self_attn.q.weight"])
    config = dit.config_of(merged.shapes, "wan")
    assert config.inputs == "inpaint"
    np.testing.assert_array_equal(dit.to_wan(dit.from_wan(merged, config), config)["patch_embedding.weight"], patches)
    for broken in (
        {"blocks.1.self_attn.q.lora_A.weight": down},
        adapter | {"x.lora_A.weight": down, "x.lora_B.weight": up},
    ):
        with pytest.raises(InputError, match=r"adapter: .*(half|does not fit)"):
            Adapted(base, broken)


def test_layers_of_different_kinds_need_a_dtype(tmp_path):
    tensors = draw(SMALL)
    tensors["blocks.3.self_attn.q.weight"] = tensors["blocks.3.self_attn.q.weight"].astype(ml_dtypes.bfloat16)
    path = save(tmp_path / "a.safetensors", tensors)
    with pytest.raises(InputError, match=r"mixes kinds of numbers.*--dtype"):
        dict(layouts.read(path).parameters)
    assert {array.dtype for array in dict(layouts.read(path, dtype=np.float32).parameters).values()} == {np.dtype("f4")}


def test_clip_of_the_original_file(tmp_path):
    params = random_params(SHAPES["clip_vision"])
    tensors = clip_vision.to_open_clip(params)
    assert tensors["visual.transformer.2.attn.to_qkv.weight"].shape == (3 * CLIP.width, CLIP.width)
    assert tensors["visual.pos_embedding"].shape == (1, CLIP.tokens, CLIP.width)
    whole = tensors | {name: np.ones(2, np.float32) for name in ("textual.a.weight", "log_scale", "visual.head")}
    back = clip_vision.from_open_clip(whole, CLIP)
    same(flatten(back), flatten(params))
    same(clip_vision.to_open_clip(back), tensors)
    np.testing.assert_array_equal(
        tensors["visual.transformer.1.attn.to_qkv.bias"][CLIP.width : 2 * CLIP.width],
        clip_vision.to_hugging_face(params)["vision_model.encoder.layers.1.self_attn.k_proj.bias"],
    )


def test_load_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(checkpoints.MODELS, "tiny", ("dit", checkpoints.DiT, SMALL))
    tensors = draw(SMALL)
    path = save(tmp_path / "a.safetensors", tensors)
    model, params = checkpoints.load("tiny", path)
    assert model.config == SMALL
    same(flatten(params), flatten(dit.from_wan(tensors, SMALL)))
    asked = []
    _, again = checkpoints.load("tiny", path, dtype=ml_dtypes.bfloat16, sharding=lambda *one: asked.append(one))
    assert dict(asked)["blocks/block0/ffn_in/kernel"] == (4, 128, 48) and len(asked) == len(flatten(params))
    assert {array.dtype for array in flatten(again).values()} == {np.dtype(ml_dtypes.bfloat16)}
    for name, message in (
        ("wan2.1-t2v-1.3b", "dim 128 instead of 1536"),
        ("umt5-xxl", "holds a dit"),
        ("x", "unknown"),
    ):
        with pytest.raises(InputError, match=message):
            checkpoints.load(name, path)


def test_table_of_public_checkpoints(capsys):
    from knotjax.streaming.methods import METHODS

    models = {row.model for row in checkpoints.PUBLIC}
    assert models <= checkpoints.MODELS.keys()
    roles = {"codec", "text encoder", "sound encoder", "image encoder"}
    assert {row.method for row in checkpoints.PUBLIC} <= METHODS.keys() | roles
    with pytest.raises(SystemExit) as end:
        main(["convert", "--models"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(checkpoints.PUBLIC) + 2 and len({len(re.findall(r"\|", line)) for line in lines}) == 1


def test_torch_files(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = draw(SMALL)
    ema = {f"model._fsdp_wrapped_module.{name}": torch.tensor(t).bfloat16() for name, t in tensors.items()}
    plain = {f"model.{name}": torch.zeros(tuple(t.shape)) for name, t in tensors.items()}
    path = tmp_path / "model.pt"
    torch.save({"generator": plain, "critic": {}, "generator_ema": ema}, path)
    rounded = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}
    same(dict(layouts.read(path).parameters), flatten(dit.from_wan(rounded, SMALL)))
    torch.save({"generator": plain}, path)
    assert not np.any(layouts.read(path).parameters["blocks/block0/q/kernel"])
    torch.save({"a": dataclasses.replace}, path)
    with pytest.raises(InputError, match=r"model\.pt cannot be loaded as weights alone") as error:
        open_tensors(path)
    assert "\n" not in str(error.value)
