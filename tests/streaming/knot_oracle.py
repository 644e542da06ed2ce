"""Knot Forcing's Algorithm 1, line by line, with no cache at all.

Everything that ever happened is kept in plain lists. Whatever a block needs from the past is computed again from those
lists: the reference is encoded again at its temporal position, and the past frames are encoded again in the order in
which they were committed, each in the context of its own time. Positions are absolute, arrays have the size of the
whole video, and a boolean says which frames may be seen. Nothing of `knotjax.streaming` is used.

"Line" means a line of Algorithm 1 of arXiv 2512.21734; "correction" names what is read differently and why.
"""

import copy
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from knotjax.models.dit import Conditions, Context, DiT


@dataclasses.dataclass(frozen=True)
class Setup:
    """The numbers that Algorithm 1 requires."""

    c: int  # chunk
    k: int  # knot
    L: int  # window
    n0: int  # first temporal position of the reference
    s: int  # running-ahead stride
    t: tuple[float, ...]  # denoising times, from t_T down to t_1
    weight: float = 0.5  # of the earlier prediction in the fused frame
    given_reference: bool = False


@dataclasses.dataclass
class History:
    """All that happened so far."""

    frames: list = dataclasses.field(default_factory=list)  # X: per frame [B, H, W, z]
    knots: list = dataclasses.field(default_factory=list)  # per block [B, k, H, W, z], for the next block
    drive: list = dataclasses.field(default_factory=list)  # per block: Conditions of c + k frames
    noise: list = dataclasses.field(default_factory=list)  # per block: noise of every pass

    def copy(self) -> "History":
        return copy.deepcopy(self)


def cut(conditions: Conditions, frames: int) -> Conditions:
    """Conditions of the first `frames` frames."""
    audio, motion = (None if a is None else a[:, :frames] for a in (conditions.audio, conditions.motion))
    return Conditions(conditions.text, audio, motion)


@partial(jax.jit, static_argnums=0)
def network(model: DiT, params, *args):
    return model.apply({"params": params}, *args)


class Oracle:
    """Algorithm 1 for one batch of streams."""

    def __init__(self, model: DiT, params, setup: Setup, reference, text, keys, total: int):
        """`total` frames are the most that the video can have; `keys` [B]; `text` drives the reference."""
        self.model, self.params, self.setup = model, params, setup
        self.reference, self.text, self.keys = reference, text, keys
        self.total = total
        self.batch, _, *self.latent = reference.shape
        self.dtype = reference.dtype

    def position(self, first: int, count: int):
        return jnp.broadcast_to(jnp.arange(first, first + count, dtype=jnp.int32), (self.batch, count))

    def full(self, value, count: int):
        return jnp.full((self.batch, count), value, self.dtype)

    def reference_position(self, block: int) -> int:
        """Lines 6-9 for blocks 0 .. block. Correction: `while` instead of `if`, and k instead of 1 knot frame."""
        n = self.setup.n0
        for b in range(block + 1):
            i = b * self.setup.c
            while i + self.setup.c + self.setup.k > n:  # line 6
                n += self.setup.s  # line 7
        return n

    def encode_reference(self, block: int):
        """KV_ref of lines 3 and 8: encoded AT position n, t = 0, mask "given", given = itself, driven by nothing.

        Correction: line 3 comes after n is known.
        """
        c = self.model.config
        n = self.reference_position(block)
        zero = self.full(0.0, 1)
        audio = jnp.zeros((self.batch, 1, *c.audio_window), self.dtype) if c.audio_tokens else None
        motion = jnp.zeros((self.batch, 1, *c.motion_window), self.dtype) if c.motion_tokens else None
        still = Conditions(self.text, audio, motion)
        _, (k, v) = network(
            self.model, self.params, self.reference, self.reference, zero, zero, self.position(n, 1), still
        )
        return Context(k, v, self.position(n, 1), jnp.ones((self.batch, 1), bool))

    def unknown(self, count: int):
        """What stands in the `given` channels of frames to generate."""
        shape = (self.batch, count, *self.latent)
        if self.setup.given_reference:
            return jnp.broadcast_to(self.reference, shape)
        return jnp.zeros(shape, self.dtype)

    def encode_past(self, history: History, block: int):
        """Keys and values of frames 0 .. block * c - 1, all computed again (line 19 of every earlier block).

        Correction: line 19 encodes the c fused frames of the block just finished; the frames before them come from
        KV_pre instead of being encoded twice. Its context is what that block saw: [i + c - L, i).
        """
        c = self.setup.c
        past = None
        for b in range(block):
            i = b * c
            latents = jnp.stack(history.frames[i : i + c], 1)
            contexts = (self.encode_reference(b), self.window(past, b))
            _, (k, v) = network(
                self.model,
                self.params,
                latents,
                self.unknown(c),
                self.full(1.0, c),  # committed frames are marked "to generate"
                self.full(0.0, c),
                self.position(i, c),
                cut(history.drive[b], c),
                contexts,
            )
            if past is None:
                past = [np.zeros((*a.shape[:2], self.total, *a.shape[3:]), a.dtype) for a in (k, v)]
            for store, new in zip(past, (k, v)):
                store[:, :, i : i + c] = new
        return past

    def window(self, past, block: int):
        """KV_pre of a block: all frames of the video, of which [i + c - L, i) may be seen."""
        i = block * self.setup.c
        if past is None:
            m = self.model.config
            tokens = self.latent[0] * self.latent[1] // m.patch**2
            shape = (m.layers, self.batch, self.total, m.heads, tokens, m.head_dim)
            past = np.zeros(shape, self.dtype), np.zeros(shape, self.dtype)
        frame = np.arange(self.total)
        seen = (frame >= i + self.setup.c - self.setup.L) & (frame < i)
        k, v = (jnp.asarray(a) for a in past)
        return Context(k, v, self.position(0, self.total), jnp.asarray(np.tile(seen, (self.batch, 1))))

    def draw(self, block: int, step: int):
        """Noise of one pass; every stream has its own key."""
        shape = (self.setup.c + self.setup.k, *self.latent)
        one = [jax.random.fold_in(jax.random.fold_in(key, block), step) for key in self.keys]
        return jnp.stack([jax.random.normal(key, shape, self.dtype) for key in one])

    def block(self, history: History, drive: Conditions):
        """One turn of the loop of lines 5-26 after `history`, which is extended.

        Returns:
          The emitted latents [B, c, H, W, z].
        """
        c, k, times = self.setup.c, self.setup.k, self.setup.t
        b = len(history.frames) // c
        i = b * c  # correction: i starts at 0
        knot = history.knots[b - 1] if b else None  # line 4: empty at first
        reference = self.encode_reference(b)  # lines 6-9
        past = self.window(self.encode_past(history, b), b)
        noise = [self.draw(b, step) for step in range(len(times))]
        given, mask = self.unknown(c + k), self.full(1.0, c + k)
        if b:  # the knot enters through the inpainting channels and the noisy frames stay noisy
            given = jnp.concatenate([knot, given[:, k:]], 1)
            mask = mask.at[:, :k].set(0.0)
        x = noise[0]  # line 10
        for j, t in enumerate(times):  # line 11, j counts up
            out, _ = network(
                self.model,
                self.params,
                x,
                given,
                mask,
                self.full(t, c + k),
                self.position(i, c + k),
                drive,
                (reference, past),
            )
            sigma = t / 1000.0
            x0 = out if self.model.config.prediction == "x0" else x - sigma * out  # line 12
            if j + 1 < len(times):  # lines 20-22, Psi: fresh noise at the next level
                after = times[j + 1] / 1000.0
                x = (1.0 - after) * x0 + after * noise[j + 1]
        if b:  # lines 14-16. Correction: all k frames, and the weight is a parameter
            w = self.setup.weight
            x0 = x0.at[:, :k].set(w * knot + (1.0 - w) * x0[:, :k])
        history.knots.append(x0[:, c:])  # line 17
        history.frames.extend(x0[:, f] for f in range(c))  # line 18; the k frames beyond are not emitted
        history.drive.append(drive)
        history.noise.append(noise)
        return x0[:, :c]  # line 25: the next call starts at i + c
