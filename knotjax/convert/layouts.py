"""Every kind of checkpoint that can be read, told apart by the names of its tensors."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from knotjax.convert import clip_vision, dit, taehv, umt5, wan_vae, wav2vec2
from knotjax.convert.keymap import Key, Parameters, export_tensors, paths, places, sizes
from knotjax.convert.lora import Adapted
from knotjax.convert.tensors import metadata, open_tensors
from knotjax.errors import InputError
from knotjax.models.clip_vision import VIT_H, CLIPVisionConfig
from knotjax.models.dit_config import DiTConfig
from knotjax.models.taehv import TAEHVConfig
from knotjax.models.umt5 import XXL, UMT5Config
from knotjax.models.wan_vae import WanVAEConfig
from knotjax.models.wav2vec2 import BASE, LARGE, Wav2Vec2Config

OURS = "knotjax"
KINDS = {  # kind -> (configuration, shapes of its parameters)
    "dit": (DiTConfig, dit.shapes),
    "wan_vae": (WanVAEConfig, wan_vae.shapes),
    "taehv": (TAEHVConfig, taehv.shapes),
    "umt5": (UMT5Config, umt5.shapes),
    "wav2vec2": (Wav2Vec2Config, wav2vec2.shapes),
    "clip_vision": (CLIPVisionConfig, clip_vision.shapes),
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way to name the tensors of one kind of model."""

    kind: str
    names: str  # "wan", "diffusers", ...
    marker: str  # a tensor that only this layout has
    config: Callable[[Mapping[str, tuple]], Any]  # names and shapes -> configuration
    table: Callable[[Any], tuple[Key, ...]]
    prepare: Callable[[Mapping], Mapping] = lambda tensors: tensors  # before the table
    finish: Callable[[Mapping], Mapping] | None = None  # after it, on the way out


def _wav2vec2(found: Mapping[str, tuple]) -> Wav2Vec2Config:
    return LARGE if any(name.endswith("conv_layers.1.layer_norm.weight") for name in found) else BASE


LAYOUTS = (
    *(
        Layout(
            "dit",
            names,
            marker,
            lambda found, names=names: dit.config_of(found, names),
            lambda config, names=names: dit.table(config, names),
        )
        for names, marker in (
            ("wan", "blocks.0.self_attn.norm_q.weight"),
            ("diffusers", "blocks.0.attn1.norm_q.weight"),
        )
    ),
    *(
        Layout(
            "wan_vae",
            names,
            marker,
            lambda found: wan_vae.PUBLISHED,
            lambda config, which=which: wan_vae.table(config, which),
        )
        for which, (names, marker) in enumerate(
            (
                ("wan", "decoder.upsamples.0.residual.2.weight"),
                ("diffusers", "decoder.up_blocks.0.resnets.0.conv1.weight"),
            )
        )
    ),
    Layout("taehv", "original", "decoder.3.conv.0.weight", lambda found: taehv.PUBLISHED, taehv.table),
    Layout("umt5", "wan", "blocks.0.pos_embedding.embedding.weight", lambda found: XXL, lambda config: umt5.WAN),
    Layout(
        "umt5",
        "hugging_face",
        "encoder.block.0.layer.0.SelfAttention.q.weight",
        lambda found: XXL,
        lambda config: umt5.HUGGING_FACE,
        umt5.prepare,
    ),
    Layout(
        "wav2vec2",
        "hugging_face",
        "feature_extractor.conv_layers.0.conv.weight",
        _wav2vec2,
        wav2vec2.key_table,
        wav2vec2.prepare,
    ),
    Layout(
        "clip_vision",
        "hugging_face",
        "embeddings.patch_embedding.weight",
        lambda found: VIT_H,
        lambda config: clip_vision.TABLE,
        clip_vision.prepare,
        clip_vision.finish,
    ),
    Layout(
        "clip_vision",
        "open_clip",
        "visual.patch_embedding.weight",
        lambda found: VIT_H,
        lambda config: clip_vision.open_clip_table(config.width),
        clip_vision.split_open_clip,
        clip_vision.join_open_clip,
    ),
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a known kind; `parameters` reads when it is asked."""

    kind: str
    names: str  # of the layout that it was found in
    config: Any
    parameters: Parameters  # path -> array


def read(path, adapters: Iterable = (), dtype=None, config=None) -> Checkpoint:
    """Open a checkpoint and find out what it is.

    Args:
      path: file or folder, see `tensors.open_tensors`.
      adapters: files to lay over it, see `lora.Adapted`.
      dtype: of the parameters; None: as in the checkpoint.
      config: what the model must be; None: as the checkpoint says.

    Raises:
      InputError: it cannot be read, is of no known kind, or its tensors are not those of its kind.
    """
    tensors = open_tensors(path)
    ours = metadata(tensors)
    if ours and adapters:
        raise InputError(f"{path} was converted already: lay adapters over the original checkpoint")
    for adapter in adapters:
        tensors = Adapted(tensors, open_tensors(adapter))
    if ours:
        return _own(path, tensors, ours, dtype)
    layout = identify(tensors, path)
    tensors = layout.prepare(tensors)
    config = config or layout.config(sizes(tensors))
    what = f"{path} ({layout.kind}, {layout.names} names)"
    shapes = KINDS[layout.kind][1](config)
    return Checkpoint(layout.kind, layout.names, config, Parameters(layout.table(config), shapes, tensors, what, dtype))


def identify(tensors: Mapping[str, np.ndarray], path) -> Layout:
    """The layout whose marker is among the tensors.

    Raises:
      InputError: none is.
    """
    for layout in LAYOUTS:
        if any(name == layout.marker or name.endswith("." + layout.marker) for name in tensors):
            return layout
    some = ", ".join(sorted(tensors)[:3])
    raise InputError(f"{path} is no model that knotjax knows ({len(tensors)} tensors: {some} ...)")


def _own(path, tensors: Mapping[str, np.ndarray], about: dict, dtype) -> Checkpoint:
    try:
        kind, fields = about["kind"], about["config"]
        known, shapes = KINDS[kind]
        config = known(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} was made by another version of knotjax ({error}): convert it again") from None
    tree = shapes(config)
    table = tuple(Key(name, name) for name in paths(tree))
    return Checkpoint(kind, OURS, config, Parameters(table, tree, tensors, str(path), dtype))


def tensors_for(checkpoint: Checkpoint, names: str) -> tuple[dict, Iterator[tuple[str, np.ndarray]]]:
    """A checkpoint's tensors in another layout, one by one.

    Args:
      names: of a layout of its kind, or "knotjax".

    Returns:
      Kind and shape of every tensor, in order, and the tensors.

    Raises:
      InputError: its kind has no such layout.
    """
    parameters = checkpoint.parameters
    if names == OURS:
        facts = {path: (parameters.kind(path), parameters.shapes[path]) for path in parameters}
        return facts, iter(parameters.items())
    layouts = {layout.names: layout for layout in LAYOUTS if layout.kind == checkpoint.kind}
    if names not in layouts:
        raise InputError(f"--to {names}: a {checkpoint.kind} checkpoint can be {', '.join((*layouts, OURS))}")
    layout = layouts[names]
    table = layout.table(checkpoint.config)
    if layout.finish:
        whole = layout.finish(dict(export_tensors(table, parameters)))
        return {name: (tensor.dtype, tensor.shape) for name, tensor in whole.items()}, iter(whole.items())
    rows = places(table, KINDS[checkpoint.kind][1](checkpoint.config))
    facts = {name: (parameters.kind(key.ours), shape) for key in table for name, shape in rows[key.ours]}
    return facts, export_tensors(table, parameters)
