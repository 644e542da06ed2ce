"""What a streaming step costs, read from its program: forwards of the DiT, and the shapes to trace a step with."""

from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp

from knotjax.flops import tally
from knotjax.models.dit import DiT, undriven
from knotjax.streaming.plan import StreamPlan
from knotjax.streaming.step import init_stream


class FramePasses(NamedTuple):
    """How often latent frames go through the DiT in one step."""

    forwards: Mapping[int, int]  # frames computed together -> forwards of that many
    emitted: int  # latent frames that the step emits

    @property
    def per_latent(self) -> Fraction:
        """Frames through the DiT per emitted latent frame (Self Forcing with four steps: 5)."""
        return Fraction(sum(frames * times for frames, times in self.forwards.items()), self.emitted)


def frame_passes(model: DiT, step: Callable, *args, branches: str = "largest") -> FramePasses:
    """Count the frames that one step sends through the DiT; nothing is computed.

    A forward is recognised in the traced program by the matrix product of its patch embedding, whose rows are the
    tokens that go in. Loops count as often as they run, a `cond` by one of its branches. Context frames, of
    which only keys and values are read, are no passes. All frames must have the picture size of the emitted ones.

    Args:
      step: such as `partial(stream_step, model, plan)`; step(*args) returns a state and latents [B, n, H, W, z].
      args: arrays or `jax.ShapeDtypeStruct`s (see `step_shapes`).
      branches: "largest": of a `cond`, the branch that sends most; "smallest": what every step sends.

    Raises:
      ValueError: no forward of this model is found, or frames of another size go through it.
    """
    c = model.config
    weight = (c.patch**2 * c.in_channels, c.dim)
    program, (_, latents) = jax.make_jaxpr(step, return_shape=True)(*args)
    batch, emitted, height, width, _ = latents.shape
    size = batch * (height // c.patch) * (width // c.patch)  # tokens of one frame of all streams

    def measure(eqn) -> Counter:
        if eqn.primitive.name != "dot_general" or eqn.invars[1].aval.shape != weight:
            return Counter()
        if "patch_embedding" not in str(eqn.source_info.name_stack):
            return Counter()
        frames, rest = divmod(eqn.invars[0].aval.size // weight[0], size)
        if rest:
            raise ValueError(f"patches {eqn.invars[0].aval.shape} go in: their frames differ from the emitted ones")
        return Counter({frames: frames})

    passes = tally(program, measure, branches)
    if not passes:
        raise ValueError("no forward of this DiT: give its own model, and leave Flax's naming of modules on")
    return FramePasses({frames: total // frames for frames, total in passes.items()}, emitted)


def step_shapes(model: DiT, plan: StreamPlan, grid: tuple[int, int], text_rows: int = 1, dtype=jnp.float32):
    """Shapes of what one step is given: `jax.ShapeDtypeStruct`s of parameters, state and drive of one stream.

    Args:
      grid: latents per column and per row.
      text_rows: rows of text.
      dtype: of latents and drive.
    """
    c = model.config

    def build(key):
        reference = jnp.zeros((1, 1, *grid, c.latent_channels), dtype)
        text, still = jnp.zeros((1, text_rows, c.text_dim), dtype), jnp.zeros((1, 1), dtype)
        drive = undriven(c, text, 1)
        params = model.init(key, reference, reference, still, still, still.astype(jnp.int32), drive)["params"]
        return params, init_stream(model, plan, params, reference, text, key[None]), undriven(c, text, plan.span)

    return jax.eval_shape(build, jax.random.key(0))
