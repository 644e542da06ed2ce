"""The programs of a stream as functions of plain dicts and arrays, for `jax.export`."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from knotjax import drive
from knotjax.bundle import Bundle
from knotjax.models import motion, speech
from knotjax.models.dit import Conditions, DiT
from knotjax.models.pixels import to_float, to_uint8
from knotjax.streaming.plan import StreamPlan
from knotjax.streaming.state import init_stream
from knotjax.streaming.step import stream_step
from knotjax.streaming.switch import switch
from knotjax.weights import flatten, unflatten

RANDOM = "threefry2x32"  # kind of the random keys


@dataclasses.dataclass(frozen=True)
class Program:
    """A function of plain dicts and arrays, and the shapes that it is exported for."""

    function: Callable
    inputs: dict[str, object]  # argument -> its `jax.ShapeDtypeStruct`s
    outputs: tuple[str, ...]
    donated: tuple[str, ...] = ()


def plain(tree) -> dict[str, jax.Array]:
    """A state as one dict of arrays, such as "ring.k"; random keys as their numbers."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        )
        for path, leaf in leaves
    }


def restored(like, arrays: dict[str, jax.Array]):
    """The state that `plain` was given; `like` has its structure."""

    def one(path, leaf):
        array = arrays[jax.tree_util.keystr(path, simple=True, separator=".")]
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.wrap_key_data(array, impl=RANDOM) if is_key else array

    return jax.tree_util.tree_map_with_path(one, like)


def rows_heard(plan: StreamPlan) -> int:
    """Pixel frames of sound that a step hears."""
    return drive.STRIDE * plan.span + 2 * speech.CONTEXT


def programs(model: Bundle, plan: StreamPlan, batch: int = 1, kernel: str = "xla") -> dict[str, Program]:
    """Everything that a stream computes. B streams; F = `plan.span` latent frames.

    words: word numbers int32 [B, 2] -> text rows.
    open: portraits uint8 [B, H, W, 3] -> the decoder's state, which holds the portraits' latents.
    init: a latent [B, 1, h, w, z], text rows, random keys uint32 [B, 2] -> the stream's state.
    hear: sound float32 [B, n], and the number of the pixel frame that it begins with, 7.5 ms early -> features of the
      F frames that are denoised.
    step: state, text rows, sound, motion -> the next state, and latents [B, chunk, h, w, z].
    switch: state, new text rows and reference -> state; encodes the past anew where the plan can.
    decode: the decoder's state, latents -> its next state, frames uint8 [B, 4 chunk, H, W, 3]; decode_first is for a
      first block shorter than the others.
    """
    dit, codec = DiT(model.dit, kernel), model.pixels
    side, grid, z = model.codec.size, model.codec.grid, model.codec.channels
    shaped = jax.ShapeDtypeStruct
    weights = {name: shaped(array.shape, array.dtype) for name, array in flatten(model.params).items()}
    rows = rows_heard(plan)

    def of(name):
        return {key: shape for key, shape in weights.items() if key.startswith(f"{name}/")}

    def words(weights, ids):
        return dataclasses.replace(model, params=unflatten(weights)).text(ids)

    def open_decoder(weights, picture):
        return plain(codec.init_decode(unflatten(weights)["codec"], to_float(picture)))

    def init(weights, portrait, text, seed):
        key = jax.vmap(lambda one: jax.random.split(jax.random.key(one, impl=RANDOM), 1)[0])(seed)
        return plain(init_stream(dit, plan, unflatten(weights)["dit"], portrait[:, None], text, key))

    def hear(samples, first):
        features = jax.lax.map(partial(speech.log_mel, frames=rows), samples)  # [B, rows, C], as a lone stream's
        silent = first + jnp.arange(rows) < 0
        features = jnp.where(silent[:, None], jnp.float32(speech.SILENCE), features)
        return features[:, drive.STRIDE * jnp.arange(plan.span)[:, None] + jnp.arange(speech.WINDOW_FRAMES)]

    def step(weights, state, text, audio, motion):
        state, drive = restored(like, state), Conditions(text, audio, motion)
        state, latents = stream_step(dit, plan, unflatten(weights)["dit"], state, drive)
        return plain(state), latents

    def change(weights, state, text, portrait):
        state, params = restored(like, state), unflatten(weights)["dit"]
        return plain(switch(dit, plan, params, state, text, portrait[:, None], recache=plan.recache))

    def decode(missing, weights, decoder, latents):
        decoder, params = restored(opened, decoder), unflatten(weights)["codec"]
        decoder, pixels = codec.decode_step(params, decoder, latents[:, missing:])
        return plain(decoder), to_uint8(pixels)

    text = shaped((batch, drive.TEXT_SLOTS, model.dit.text_dim), jnp.float32)
    reference = shaped((batch, 1, grid, grid, z), jnp.float32)
    portrait, latents = (shaped((batch, *many, grid, grid, z), jnp.float32) for many in ((), (plan.chunk,)))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0, impl=RANDOM), batch))
    like = jax.eval_shape(partial(init_stream, dit, plan), unflatten(of("dit"))["dit"], reference, text, keys)
    picture = shaped((batch, side, side, 3), jnp.float32)
    opened = jax.eval_shape(codec.init_decode, unflatten(of("codec"))["codec"], picture)
    state, decoder = jax.eval_shape(plain, like), jax.eval_shape(plain, opened)
    audio = shaped((batch, plan.span, speech.WINDOW_FRAMES, speech.WIDTH), jnp.float32)
    moves = shaped((batch, plan.span, motion.WINDOW_FRAMES, motion.WIDTH), jnp.float32)
    samples = shaped((batch, rows * speech.FRAME + 2 * speech.MARGIN), jnp.float32)

    def program(function, inputs, outputs, donated=(), part=None):
        weights = {"weights": of(part)} if part else {}
        return Program(function, weights | inputs, outputs, donated)

    def decoding(missing):
        inputs = {"decoder": decoder, "latents": latents}
        return program(partial(decode, missing), inputs, ("decoder", "frames"), ("decoder",), "codec")

    seeds, ids = shaped((batch,), jnp.uint32), shaped((batch, drive.TEXT_SLOTS), jnp.int32)
    driven = {"state": state, "text": text, "audio": audio, "motion": moves}
    made = {
        "words": program(words, {"ids": ids}, ("text",), part="words"),
        "open": program(open_decoder, {"picture": shaped(picture.shape, jnp.uint8)}, ("decoder",), part="codec"),
        "init": program(init, {"portrait": portrait, "text": text, "seed": seeds}, ("state",), part="dit"),
        "hear": program(hear, {"samples": samples, "first": shaped((), jnp.int32)}, ("audio",)),
        "step": program(step, driven, ("state", "latents"), ("state",), "dit"),
        "switch": program(change, {"state": state, "text": text, "portrait": portrait}, ("state",), ("state",), "dit"),
        "decode": decoding(0),
    }
    return made | ({"decode_first": decoding(plan.missing)} if plan.missing else {})
