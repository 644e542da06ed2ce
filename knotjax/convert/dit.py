"""DiT weights under the names of Wan 2.1's own files and of diffusers' WanTransformer3DModel.

The systems built on Wan keep its own names and add theirs: InfiniteTalk and LiveAct a sound cross-attention, LiveAct
the kernels of its memory, OmniAvatar and AvatarForcing packed sound. The affine norm before the text cross-attention is
`norm3` in Wan's files and `norm2` in those of diffusers.
"""

from collections.abc import Mapping

import numpy as np

from knotjax.convert.keymap import CONV1D, CONV3D, LINEAR, Key, export_weights, import_weights
from knotjax.errors import InputError
from knotjax.models.dit import DiT
from knotjax.models.dit_config import MASKS, DiTConfig
from knotjax.presets import shapes as dit_shapes

HEAD_DIM = 128  # of every public Wan 2.1 DiT; it cannot be read from the shapes
_BLOCK = "blocks.{}."
_OURS = "blocks/block0/"

# ours -> (Wan, diffusers); linear layers
_LINEARS = {
    "text_in": ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    "text_out": ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    "time_in": ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    "time_out": ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    "time_projection": ("time_projection.1", "condition_embedder.time_proj"),
    "head": ("head.head", "proj_out"),
    **{f"{_OURS}{n}": (f"{_BLOCK}self_attn.{n}", f"{_BLOCK}attn1.to_{n}") for n in "qkv"},
    f"{_OURS}o": (_BLOCK + "self_attn.o", _BLOCK + "attn1.to_out.0"),
    **{f"{_OURS}text_{n}": (f"{_BLOCK}cross_attn.{n}", f"{_BLOCK}attn2.to_{n}") for n in "qkv"},
    f"{_OURS}text_o": (_BLOCK + "cross_attn.o", _BLOCK + "attn2.to_out.0"),
    f"{_OURS}ffn_in": (_BLOCK + "ffn.0", _BLOCK + "ffn.net.0.proj"),
    f"{_OURS}ffn_out": (_BLOCK + "ffn.2", _BLOCK + "ffn.net.2"),
}
_WEIGHTS = {  # of norms over the full width
    **{f"{_OURS}norm_{n}": (f"{_BLOCK}self_attn.norm_{n}", f"{_BLOCK}attn1.norm_{n}") for n in "qk"},
    **{f"{_OURS}text_norm_{n}": (f"{_BLOCK}cross_attn.norm_{n}", f"{_BLOCK}attn2.norm_{n}") for n in "qk"},
}
_NORMS = {f"{_OURS}norm_text": (_BLOCK + "norm3", _BLOCK + "norm2")}
_TABLES = {
    "head_modulation": ("head.modulation", "scale_shift_table"),
    f"{_OURS}modulation": (_BLOCK + "modulation", _BLOCK + "scale_shift_table"),
}
_IMAGE = "condition_embedder.image_embedder."
_IMAGE_LINEARS = {
    f"{_OURS}image_k": (_BLOCK + "cross_attn.k_img", _BLOCK + "attn2.add_k_proj"),
    f"{_OURS}image_v": (_BLOCK + "cross_attn.v_img", _BLOCK + "attn2.add_v_proj"),
    "image_tokens/input": ("img_emb.proj.1", _IMAGE + "ff.net.0.proj"),
    "image_tokens/output": ("img_emb.proj.3", _IMAGE + "ff.net.2"),
}
_IMAGE_WEIGHTS = {f"{_OURS}image_norm_k": (_BLOCK + "cross_attn.norm_k_img", _BLOCK + "attn2.norm_added_k")}
_IMAGE_NORMS = {
    "image_tokens/norm_in": ("img_emb.proj.0", _IMAGE + "norm1"),
    "image_tokens/norm_out": ("img_emb.proj.4", _IMAGE + "norm2"),
}
# what diffusers does not have
_SOUND_LINEARS = {
    "audio_tokens/first": ("audio_proj.proj1",),
    "audio_tokens/later": ("audio_proj.proj1_vf",),
    "audio_tokens/middle": ("audio_proj.proj2",),
    "audio_tokens/output": ("audio_proj.proj3",),
    f"{_OURS}audio/q": (_BLOCK + "audio_cross_attn.q_linear",),
    f"{_OURS}audio/kv": (_BLOCK + "audio_cross_attn.kv_linear",),
    f"{_OURS}audio/o": (_BLOCK + "audio_cross_attn.proj",),
}
_SOUND_NORMS = {"audio_tokens/norm": ("audio_proj.norm",), f"{_OURS}audio/norm": (_BLOCK + "norm_x",)}
_PACKED_LINEARS = {"audio_tokens/pack": ("audio_proj.proj",), "audio_add": ("audio_cond_projs.{}",)}
_PACKED_NORMS = {"audio_tokens/norm": ("audio_proj.norm_out",)}
_MEMORY = {f"{_OURS}memory_{n}": f"{_BLOCK}self_attn.memory_proj_{n}.weight" for n in "kv"}


def table(config: DiTConfig, names: str) -> tuple[Key, ...]:
    """A key for every parameter.

    Args:
      names: "wan" or "diffusers".

    Raises:
      InputError: the model has parts that no public files with these names have.
    """
    if config.motion_tokens or config.given_residual or (config.audio_tokens and config.audio_form == "window"):
        raise InputError("this DiT has drive adapters of knotjax's own: Wan's files have no names for them")
    linears, weights, norms = dict(_LINEARS), dict(_WEIGHTS), dict(_NORMS)
    if config.image_tokens:
        linears, weights, norms = linears | _IMAGE_LINEARS, weights | _IMAGE_WEIGHTS, norms | _IMAGE_NORMS
    if config.audio_tokens and config.audio_form == "pixel_frames":
        linears, norms = linears | _SOUND_LINEARS, norms | _SOUND_NORMS
    if config.audio_tokens and config.audio_form == "added":
        linears, norms = linears | _PACKED_LINEARS, norms | _PACKED_NORMS
    which = ("wan", "diffusers").index(names)
    if which and (config.audio_tokens or config.memory_ratio):
        raise InputError("diffusers has no sound branch and no memory: convert to wan")
    patch = (1, config.patch, config.patch, config.in_channels, config.dim)
    keys = [Key("patch_embedding/kernel", "patch_embedding.weight", CONV3D, patch)]
    keys += [Key("patch_embedding/bias", "patch_embedding.bias")]
    for ours, theirs in linears.items():
        keys += [Key(f"{ours}/kernel", f"{theirs[which]}.weight", LINEAR)]
        keys += [Key(f"{ours}/bias", f"{theirs[which]}.bias")]
    keys += [Key(f"{ours}/weight", f"{theirs[which]}.weight") for ours, theirs in weights.items()]
    for ours, theirs in norms.items():
        keys += [Key(f"{ours}/scale", f"{theirs[which]}.weight"), Key(f"{ours}/bias", f"{theirs[which]}.bias")]
    for ours, theirs in _TABLES.items():
        keys.append(Key(ours, theirs[which], unfolded=(1, 2 if ours == "head_modulation" else 6, -1)))
    if config.memory_ratio:
        unfolded = (config.memory_ratio, 1, -1)
        keys += [Key(ours, theirs, CONV1D, unfolded) for ours, theirs in _MEMORY.items()]
    return tuple(keys)


def shapes(config: DiTConfig) -> dict:
    """The shapes of all parameters; nothing is computed."""
    return dit_shapes(DiT(config))


def config_of(found: Mapping[str, tuple[int, ...]], names: str) -> DiTConfig:
    """The configuration of a checkpoint, from its names and shapes.

    Raises:
      InputError: a tensor that tells a size is missing, or the input has a number of channels that no system has.
    """
    which = ("wan", "diffusers").index(names)

    def size(ours: str, axis: int = 0) -> int:
        name = _LINEARS[ours][which].format(0) + ".weight"
        if len(found.get(name, ())) != 2:
            raise InputError(f"the DiT checkpoint has no matrix {name}: give the whole checkpoint")
        return found[name][axis]

    patches = found.get("patch_embedding.weight", ())
    if len(patches) != 5:
        raise InputError("the DiT checkpoint has no patch_embedding.weight with 5 axes: give the whole checkpoint")
    dim, channels, _, patch, _ = patches
    z = size("head") // patch**2
    inputs = {z: "plain", 2 * z + 1: "inpaint", 2 * z + MASKS: "image"}.get(channels)
    if inputs is None:
        raise InputError(
            f"the DiT checkpoint takes {channels} input channels: {z}, {2 * z + 1} and {2 * z + MASKS} fit"
        )
    head_dim = HEAD_DIM if dim % HEAD_DIM == 0 else dim
    layers = 0
    while _LINEARS[f"{_OURS}q"][which].format(layers) + ".weight" in found:
        layers += 1
    more = {}
    image = _IMAGE_NORMS["image_tokens/norm_in"][which] + ".weight"
    if image in found:
        more |= dict(image_tokens=257, image_width=found[image][0])
    if "audio_proj.proj1_vf.weight" in found:
        hidden, later = found["audio_proj.proj1_vf.weight"]
        width = found.get("audio_proj.norm.weight", (768,))[0]
        tokens = found.get("audio_proj.proj3.weight", (32 * width, 0))[0] // width
        more |= dict(audio_form="pixel_frames", audio_tokens=tokens, audio_width=width, audio_hidden=hidden)
        more |= dict(audio_window=(8, later // 8 + 1))
    elif "audio_proj.proj.weight" in found:
        width, rows = found["audio_proj.proj.weight"]
        more |= dict(audio_form="added", audio_tokens=1, audio_width=width, audio_window=(4, rows // 4))
    memory = _MEMORY[f"{_OURS}memory_k"].format(0)
    if memory in found:
        more |= dict(memory_ratio=found[memory][-1])
    return DiTConfig(
        latent_channels=z,
        inputs=inputs,
        dim=dim,
        ffn_dim=size(f"{_OURS}ffn_in"),
        heads=dim // head_dim,
        layers=layers,
        patch=patch,
        freq_dim=size("time_in", 1),
        text_dim=size("text_in", 1),
        **more,
    )


def from_wan(tensors: Mapping[str, np.ndarray], config: DiTConfig, dtype=None) -> dict:
    """Parameters of `DiT(config)` from tensors under Wan's own names.

    Raises:
      InputError: tensors are missing, unknown or of another shape; they are named.
    """
    return import_weights(table(config, "wan"), shapes(config), tensors, "DiT checkpoint (Wan names)", dtype)


def to_wan(params: Mapping, config: DiTConfig) -> dict[str, np.ndarray]:
    """Tensors under Wan's own names."""
    return export_weights(table(config, "wan"), params)


def from_diffusers(tensors: Mapping[str, np.ndarray], config: DiTConfig, dtype=None) -> dict:
    """As `from_wan`, for the names of diffusers."""
    return import_weights(table(config, "diffusers"), shapes(config), tensors, "DiT checkpoint (diffusers)", dtype)


def to_diffusers(params: Mapping, config: DiTConfig) -> dict[str, np.ndarray]:
    """As `to_wan`, for the names of diffusers."""
    return export_weights(table(config, "diffusers"), params)
