"""Public checkpoints by name: what they are, under which licence, for which method; and loading one.

Nothing is downloaded: a user gives the path of files that they have fetched, and answers for their licence.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from knotjax.convert.layouts import read
from knotjax.errors import InputError
from knotjax.models.clip_vision import VIT_H, CLIPVision
from knotjax.models.dit import DiT
from knotjax.models.taehv import TAEHV, TAEHVConfig
from knotjax.models.umt5 import XXL, UMT5Encoder
from knotjax.models.wan_vae import WanVAE, WanVAEConfig
from knotjax.models.wav2vec2 import BASE, LARGE, Wav2Vec2
from knotjax.presets import PRESETS
from knotjax.weights import unflatten

# name -> (kind, module, configuration)
MODELS: dict[str, tuple[str, type[nn.Module], Any]] = {
    **{name: ("dit", DiT, config) for name, config in PRESETS.items()},
    "wan2.1-vae": ("wan_vae", WanVAE, WanVAEConfig()),
    "taew2.1": ("taehv", TAEHV, TAEHVConfig()),
    "umt5-xxl": ("umt5", UMT5Encoder, XXL),
    "wav2vec2-base": ("wav2vec2", Wav2Vec2, BASE),
    "wav2vec2-large": ("wav2vec2", Wav2Vec2, LARGE),
    "clip-vit-h": ("clip_vision", CLIPVision, VIT_H),
}


@dataclasses.dataclass(frozen=True)
class PublicCheckpoint:
    """One row of the table of public checkpoints."""

    source: str  # project or Hugging Face repository
    file: str
    model: str  # name in `MODELS`
    method: str  # the streaming method that it was trained for (a name in `streaming.methods`), or what it is
    licence: str  # of the project, as its authors state it; look again before you use the weights
    how: str = ""  # what `knotjax convert` or `load` needs besides the file


_MIXED = "unclear (Apache-2.0 and academic-only are both stated)"
PUBLIC = (
    PublicCheckpoint(
        "Wan-AI/Wan2.1-T2V-1.3B",
        "diffusion_pytorch_model.safetensors",
        "wan2.1-t2v-1.3b",
        "bidirectional",
        "Apache-2.0",
    ),
    PublicCheckpoint(
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "transformer/", "wan2.1-t2v-1.3b", "bidirectional", "Apache-2.0"
    ),
    PublicCheckpoint("Wan-AI/Wan2.1-T2V-14B", "folder", "wan2.1-t2v-14b", "bidirectional", "Apache-2.0"),
    PublicCheckpoint("Wan-AI/Wan2.1-I2V-14B-480P", "folder", "wan2.1-i2v-14b", "bidirectional", "Apache-2.0"),
    PublicCheckpoint("CausVid", "model.pt", "wan2.1-t2v-1.3b", "causvid", "CC BY-NC-SA 4.0"),
    PublicCheckpoint("Self-Forcing", "self_forcing_dmd.pt", "wan2.1-t2v-1.3b", "self_forcing", "Apache-2.0"),
    PublicCheckpoint(
        "Causal-Forcing", "chunkwise/causal_forcing.pt", "wan2.1-t2v-1.3b", "causal_forcing", "Apache-2.0"
    ),
    PublicCheckpoint(
        "Causal-Forcing", "framewise/causal_forcing.pt", "wan2.1-t2v-1.3b", "causal_forcing", "Apache-2.0"
    ),
    PublicCheckpoint(
        "RollingForcing",
        "rolling_forcing_dmd.pt",
        "wan2.1-t2v-1.3b",
        "rolling_forcing",
        "academic only (Tencent terms)",
    ),
    PublicCheckpoint(
        "LongLive v1.0", "longlive_base.pt", "wan2.1-t2v-1.3b", "longlive", "Apache-2.0", "without its LoRA"
    ),
    PublicCheckpoint(
        "OmniAvatar 1.3B",
        "pytorch_model.pt",
        "omniavatar-1.3b",
        "bidirectional",
        "Apache-2.0",
        "Wan T2V, --adapter FILE",
    ),
    PublicCheckpoint(
        "OmniAvatar 14B", "pytorch_model.pt", "omniavatar-14b", "bidirectional", "Apache-2.0", "Wan T2V, --adapter FILE"
    ),
    PublicCheckpoint("LiveTalk", "causal 1.3B", "omniavatar-1.3b", "self_forcing", "CC BY-NC-SA 4.0"),
    PublicCheckpoint(
        "cuiliyuan121/AvatarForcing",
        "pytorch_model_merged_fp32.safetensors",
        "omniavatar-1.3b",
        "avatar_forcing",
        _MIXED,
        "given_reference=True",
    ),
    PublicCheckpoint(
        "MeiGen-AI/InfiniteTalk",
        "single/infinitetalk.safetensors",
        "infinitetalk-14b",
        "bidirectional",
        "Apache-2.0",
        "Wan I2V 14B, --adapter FILE",
    ),
    PublicCheckpoint("Soul-AILab/LiveAct", "folder", "liveact-14b", "live_act", "none stated"),
    PublicCheckpoint("Wan-AI/Wan2.1-T2V-1.3B", "Wan2.1_VAE.pth", "wan2.1-vae", "codec", "Apache-2.0"),
    PublicCheckpoint("madebyollin/taehv", "taew2_1.pth", "taew2.1", "codec", "MIT"),
    PublicCheckpoint(
        "Wan-AI/Wan2.1-T2V-1.3B", "models_t5_umt5-xxl-enc-bf16.pth", "umt5-xxl", "text encoder", "Apache-2.0"
    ),
    PublicCheckpoint(
        "facebook/wav2vec2-base-960h", "model.safetensors", "wav2vec2-base", "sound encoder", "Apache-2.0"
    ),
    PublicCheckpoint(
        "TencentGameMate/chinese-wav2vec2-base", "pytorch_model.bin", "wav2vec2-base", "sound encoder", "MIT"
    ),
    PublicCheckpoint(
        "jonatasgrosman/wav2vec2-large-xlsr-53-english",
        "model.safetensors",
        "wav2vec2-large",
        "sound encoder",
        "Apache-2.0",
    ),
    PublicCheckpoint(
        "Wan-AI/Wan2.1-I2V-14B-480P",
        "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
        "clip-vit-h",
        "image encoder",
        "Apache-2.0",
    ),
)


def table() -> str:
    """The public checkpoints as a Markdown table."""
    rows = [("checkpoint", "file", "`knotjax.load` name", "trained for", "licence", "needs")]
    rows.append(("---",) * len(rows[0]))
    rows += [(p.source, p.file, p.model, p.method, p.licence, p.how) for p in PUBLIC]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def load(
    name: str,
    path: str | os.PathLike,
    *,
    adapters: tuple[str | os.PathLike, ...] = (),
    dtype=None,
    sharding: Callable[[str, tuple[int, ...]], Any] | dict | None = None,
) -> tuple[nn.Module, dict]:
    """A public model with the user's own weights: original files, those of diffusers, or what `knotjax convert` made.

    Parameters are read one by one, the largest first, and put where they belong, so that main memory holds little more
    than the model itself. On a CPU those of a converted file may stay mapped: do not write into it while they are used
    (`knotjax convert` never does; it puts a new file in its place).

    Args:
      name: such as "wan2.1-t2v-1.3b"; all stand in `MODELS`.
      path: a file or a folder.
      adapters: LoRA files or further tensors to lay over it.
      dtype: of the parameters; None: as in the file.
      sharding: where a parameter goes: a function of its path ("blocks/block0/q/kernel") and shape, or a tree of
        shardings like the parameters. None: the default device.

    Returns:
      The Flax module and its parameters.

    Raises:
      InputError: the name is unknown, or the files are damaged or of another model.
    """
    if name not in MODELS:
        raise InputError(f"model {name!r} is unknown: choose one of {', '.join(MODELS)}")
    kind, module, config = MODELS[name]
    checkpoint = read(path, adapters, dtype)
    if checkpoint.kind != kind:
        raise InputError(f"{path} holds a {checkpoint.kind} and not {name}: give the file that belongs to it")
    if kind == "dit" and checkpoint.config != config:
        ours, theirs = dataclasses.asdict(config), dataclasses.asdict(checkpoint.config)
        told = ", ".join(
            f"{field} {theirs[field]} instead of {ours[field]}" for field in ours if ours[field] != theirs[field]
        )
        raise InputError(f"{path} is not {name} ({told}): give its name or its file")
    parameters = checkpoint.parameters
    where = _places(sharding)
    sizes = {one: int(np.prod(shape, dtype=np.int64)) for one, shape in parameters.shapes.items()}
    flat = {}
    for one in sorted(sizes, key=lambda one: (-sizes[one], one)):
        target = where(one, parameters.shapes[one])
        array = parameters[one]
        flat[one] = jax.block_until_ready(jax.device_put(array, target))  # before the next one is read
        del array
    return module(checkpoint.config), unflatten(flat)


def _places(sharding):
    if sharding is None or callable(sharding):
        return sharding or (lambda path, shape: None)

    def look(path, shape):
        node = sharding
        for part in path.split("/"):
            node = node[part]
        return node

    return look
