"""Every streaming system, slowly: what a `StreamPlan` means, with no cache at all.

What went into the network is kept in plain lists, and nothing that came out of it but the latents. At every step all
keys and values of the past are computed again, in the order in which they were first made and each in the context of
its own time. Arrays have the length of the whole video, positions are frame numbers, and booleans say what may be seen.
Of `knotjax.streaming` nothing is used; of a plan only the fields are read.
All streams of a batch are at the same step.

Denoising passes count from 1. Noise number 0 is what a block starts from; a clean pass draws a place as number 0.
"""

import dataclasses
from functools import partial

import jax
import numpy as np

from knotjax.models.dit import Conditions, Context, DiT

DRAW_PLACE = 2**20  # added to the pass number where a position is drawn instead of noise


@dataclasses.dataclass
class Turn:
    """One step of the past, as it was."""

    drive: Conditions  # of the whole window
    inputs: list  # per pass: the noisy latents [B, span, H, W, z]
    knot: np.ndarray | None  # [B, k, H, W, z], as it came in
    clean: np.ndarray  # [B, c, H, W, z], the finished block, fused
    window: np.ndarray  # [B, (W - 1) c, H, W, z], the other blocks as they enter the next step
    next_knot: np.ndarray  # [B, k, H, W, z], as it goes on to the next step


@dataclasses.dataclass
class Past:
    """Keys and values of the past, computed anew: one pair for the clean pass or one for every denoising pass."""

    frames: list  # of [k, v], each [L, B, frames of the video, N, S, D]
    memory: list  # of [k, v], each [L, B, m, N, S, D]
    remembers: np.ndarray  # bool [m]


@partial(jax.jit, static_argnums=0)
def network(model: DiT, params, *args):
    return model.apply({"params": params}, *args)


class Oracle:
    """A plan for one batch of streams of at most `steps` steps; `end` is the length of the video if it has one."""

    def __init__(self, model: DiT, plan, params, reference, text, keys, steps: int, end: int | None = None):
        self.model, self.plan, self.params, self.keys = model, plan, params, keys
        self.reference, self.text = np.asarray(reference), np.asarray(text)
        self.batch, _, *self.latent = reference.shape
        self.dtype = self.reference.dtype
        self.number = np.arange(self.first(0), self.first(steps - 1) + self.span)  # of every frame of the arrays
        self.end = self.number[-1] + 1 if end is None else end
        self.sinks = plan.anchor.frames if plan.anchor.source == "stream" else 0
        self.sets = len(plan.timesteps) if plan.commit == "same_step" else 1

    @property
    def span(self) -> int:
        return self.plan.blocks * self.plan.chunk + self.plan.knot.frames

    def first(self, n: int) -> int:
        """Number of the first frame in the window of step n. Block 0 ends where a chunk would and starts late."""
        short = 0 if self.plan.first_chunk is None else self.plan.chunk - self.plan.first_chunk
        return (n - self.plan.blocks + 1) * self.plan.chunk - short

    def exists(self, first: int, count: int, beyond: int = 0):
        """bool [count]: frames of the video, and `beyond` ones past its end."""
        frame = np.arange(first, first + count)
        return (frame >= 0) & (frame < self.end + beyond)

    # --- the network, on arrays as long as the video ------------------------------------------------------------------

    def spread(self, first: int, value):
        """Put frames `first` .. [B, F, ...] into an array of all frames, zeros elsewhere."""
        out = np.zeros((self.batch, len(self.number), *value.shape[2:]), value.dtype)
        at = first - self.number[0]
        out[:, at : at + value.shape[1]] = value
        return out

    def forward(self, first, x, given, mask, t, drive: Conditions, contexts, exists, position=None):
        """One call for the frames `first` ..: prediction of these frames, and keys and values of all.

        `mask`, `t`, `exists`: per frame, alike for all streams. `position`: [B, 1] where it is not the frame's number.
        """
        count, everywhere = x.shape[1], (self.batch, len(self.number))
        audio, motion = (None if a is None else self.spread(first, a[:, :count]) for a in (drive.audio, drive.motion))
        position = self.number if position is None else position
        rows = [np.broadcast_to(a, (self.batch, count)) for a in (self.dtype.type(mask), self.dtype.type(t), exists)]
        mask, t, exists = (self.spread(first, a) for a in rows)
        out, kv = network(
            self.model,
            self.params,
            self.spread(first, x),
            self.spread(first, given),
            mask,
            t,
            np.broadcast_to(position, everywhere).astype(np.int32),
            Conditions(np.asarray(drive.text), audio, motion),
            tuple(contexts.values()),
            exists,
        )
        at = first - self.number[0]
        return np.asarray(out)[:, at : at + count], [np.asarray(a) for a in kv]

    def context(self, kv, position, valid) -> Context:
        position = np.broadcast_to(np.asarray(position, np.int32), (self.batch, kv[0].shape[2]))
        return Context(*kv, position, np.broadcast_to(valid, position.shape))

    def nothing(self, frames: int):
        """Keys and values of frames of which there are none yet."""
        c = self.model.config
        tokens = self.latent[0] * self.latent[1] // c.patch**2
        return [np.zeros((c.layers, self.batch, frames, c.heads, tokens, c.head_dim), self.dtype) for _ in "kv"]

    def unknown(self, count: int):
        """What `given` holds on frames to generate."""
        one = self.reference if self.plan.given_reference else np.zeros_like(self.reference)
        return np.repeat(one, count, 1)

    # --- what a pass may look at --------------------------------------------------------------------------------------

    def place(self, n: int, number: int, oldest: int):
        """Position of the first anchor frame in pass `number` of step n: [B]."""
        a, first = self.plan.anchor, self.first(n)
        if a.place == "ahead":
            position = a.start
            while position < first + self.span:
                position += a.stride
        elif a.place == "behind":
            position = oldest - a.frames
        elif a.place == "absolute":
            position = 0
        else:  # drawn
            keys = [jax.random.fold_in(jax.random.fold_in(key, n), DRAW_PLACE + number) for key in self.keys]
            ahead = [int(jax.random.randint(key, (), *a.lead, "int32")) for key in keys]
            return np.array([max(a.start, first + r) for r in ahead])
        return np.full(self.batch, position)

    def encode_reference(self, position, contexts):
        """The reference AT its position [B, 1], seeing only itself: t = 0, mask "given", given = itself, undriven."""
        c = self.model.config
        audio = np.zeros((self.batch, 1, *c.audio_window), self.dtype) if c.audio_tokens else None
        motion = np.zeros((self.batch, 1, *c.motion_window), self.dtype) if c.motion_tokens else None
        still = Conditions(self.text, audio, motion)
        alone = {name: dataclasses.replace(g, valid=np.zeros_like(g.valid)) for name, g in contexts.items()}
        at = self.number[0]  # any place in the arrays
        _, kv = self.forward(at, self.reference, self.reference, 0.0, 0.0, still, alone, True, position)
        return [a[:, :, :1] for a in kv]

    def contexts(self, past: Past, n: int, number: int, commit: bool = False) -> dict[str, Context]:
        """Everything besides its own frames that pass `number` of step n, or its clean pass, may look at."""
        plan, first = self.plan, self.first(n)
        cache = number - 1 if plan.commit == "same_step" else 0
        history = plan.commit_history if commit and plan.commit_history is not None else plan.history
        seen = (self.number >= max(first - history, self.sinks)) & (self.number < first)
        groups = {"history": self.context(past.frames[cache], self.number, seen)}
        stand = list(self.number[seen])
        if plan.memory.frames:
            position = np.arange(-plan.memory.frames, 0) + first - history
            groups["memory"] = self.context(past.memory[cache], position, past.remembers)
            stand += list(position[past.remembers])
        a = plan.anchor
        if a.source == "none":
            return groups
        position = self.place(n, number, min([*stand, max(first, 0)]))
        valid = a.source == "reference" or n >= plan.blocks  # a sink is there once block 0 is committed
        if commit and a.commit_absolute:
            position = np.zeros(self.batch)
            valid = valid and first + plan.chunk <= a.commit_absolute
        position = position[:, None] + np.arange(a.frames)
        if a.source == "stream":
            made = slice(-self.number[0], a.frames - self.number[0])
            kv = [whole[:, :, made] for whole in past.frames[cache]]
        else:  # every call has the same shapes, so that it compiles once
            kv = self.encode_reference(position, groups | {"anchor": self.context(self.nothing(1), 0, False)})
        return groups | {"anchor": self.context(kv, position, valid)}

    # --- keys and values of the past ----------------------------------------------------------------------------------

    def replay(self, turns: list[Turn]) -> Past:
        """Compute all keys and values that step len(turns) may look at."""
        c = self.plan.chunk
        past = Past(
            [self.nothing(len(self.number)) for _ in range(self.sets)],
            [self.nothing(self.plan.memory.frames) for _ in range(self.sets)],
            np.zeros(self.plan.memory.frames, bool),
        )
        for n, turn in enumerate(turns):
            first, new = self.first(n), []
            if self.plan.commit == "clean":
                look, exists = self.contexts(past, n, 0, commit=True), self.exists(first, c)
                new = [self.forward(first, turn.clean, self.unknown(c), 1.0, 0.0, turn.drive, look, exists)[1]]
            elif self.plan.commit == "same_step":
                new = [self.denoise(past, n, p, x, turn.knot, turn.drive)[1] for p, x in enumerate(turn.inputs, 1)]
            at = slice(first - self.number[0], first - self.number[0] + c)
            for kept, made in zip(past.frames, new):
                for whole, fresh in zip(kept, made):
                    whole[:, :, at] = fresh[:, :, at]
            self.compress(past, n + 1)
        return past

    def kernels(self):
        """[L, ratio, C] for keys and for values."""
        # Of a group of blocks, each with the groups stacked in front.
        blocks = [self.params["blocks"][f"block{i}"] for i in range(self.model.config.motion_every)]
        for name in ("memory_k", "memory_k" if self.plan.memory.key_weights_for_values else "memory_v"):
            stacked = np.stack([np.asarray(block[name]) for block in blocks], 1)
            yield stacked.reshape(-1, *stacked.shape[2:])

    def compress(self, past: Past, n: int):
        """ConvKV, before step n looks at the memory: take in the frames that are history no longer."""
        m = self.plan.memory.frames
        if not m:
            return
        stop = self.first(n) - self.plan.history
        leave = np.arange(stop - self.plan.chunk, stop)
        there = leave >= self.sinks
        full = past.remembers.all()
        for pair, whole in zip(past.memory, past.frames):
            for i, kernel in enumerate(self.kernels()):
                # In front of the video there is nothing, and nothing of it is taken.
                rows = [whole[i][:, :, f - self.number[0]] for f in leave[there]]
                rows = [pair[i][:, :, j] for j in range(m) if past.remembers[j]] + rows  # of [L, B, N, S, D]
                if full:
                    rows = self.convolve(np.stack(rows, 2), kernel)
                for j, row in enumerate(rows[-m:][::-1]):
                    pair[i][:, :, m - 1 - j] = row
        past.remembers = np.arange(m) >= m - past.remembers.sum() - there.sum()

    def convolve(self, frames, kernel):
        """[L, B, m + c, N, S, D] -> m of [L, B, N, S, D]: weighted sums of `ratio` neighbours, channel by channel."""
        frames = frames.swapaxes(3, 4)
        layers, batch, count, tokens, *head = frames.shape
        ratio = kernel.shape[1]
        flat = frames.reshape(layers, batch, count, tokens, -1)
        out = np.zeros_like(flat[:, :, : count // ratio])
        for j in range(count // ratio):
            for s in range(tokens):
                for r in range(ratio):
                    if self.plan.memory.axis == "time":
                        source = flat[:, :, j * ratio + r, s]
                    else:  # tokens in raster order, frame after frame
                        row = (j * tokens + s) * ratio + r
                        source = flat[:, :, row // tokens, row % tokens]
                    out[:, :, j, s] += kernel[:, None, r] * source
        return [out[:, :, j].reshape(layers, batch, tokens, *head).swapaxes(2, 3) for j in range(count // ratio)]

    # --- one step -----------------------------------------------------------------------------------------------------

    def draw(self, n: int, number: int, frames: int):
        """Noise of step n; every stream has its own key."""
        keys = [jax.random.fold_in(jax.random.fold_in(key, n), number) for key in self.keys]
        return np.stack([np.asarray(jax.random.normal(key, (frames, *self.latent), self.dtype)) for key in keys])

    def times(self, n: int):
        """Diffusion times of the window's frames: [passes + 1, span], 0 where a frame is finished."""
        plan = self.plan
        ladder = plan.first_timesteps if n == 0 and plan.first_timesteps is not None else plan.timesteps
        passes = len(ladder) // plan.blocks
        block = np.minimum(np.arange(self.span) // plan.chunk, plan.blocks - 1)  # a knot goes with the newest block
        level = (plan.blocks - 1 - block) * passes + np.arange(passes + 1)[:, None]
        return np.array([*ladder, 0.0], self.dtype)[level]

    def denoise(self, past: Past, n: int, number: int, x, knot, drive: Conditions):
        """Pass `number` of step n: the clean estimate of its frames, and keys and values."""
        k, t = self.plan.knot.frames, self.times(n)[number - 1]
        given, mask = self.unknown(self.span), np.ones(self.span)
        if knot is not None:  # it enters through the inpainting channels, and its noisy frames stay noisy
            given[:, :k], mask[:k] = knot, 0.0
        exists = self.exists(self.first(n), self.span, beyond=k)
        out, kv = self.forward(self.first(n), x, given, mask, t, drive, self.contexts(past, n, number), exists)
        sigma = t[:, None, None, None] / 1000
        return (out if self.model.config.prediction == "x0" else x - sigma * out), kv

    def step(self, turns: list[Turn], drive: Conditions):
        """The step after `turns`, which are extended by it: the oldest block's latents [B, c, H, W, z]."""
        plan, n = self.plan, len(turns)
        c, k = plan.chunk, plan.knot.frames
        older = turns[-1].window if n else np.zeros((self.batch, (plan.blocks - 1) * c, *self.latent), self.dtype)
        knot = turns[-1].next_knot if n and k else None
        past, times = self.replay(turns), self.times(n)
        x, inputs = np.concatenate([older, self.draw(n, 0, c + k)], 1), []
        for number in range(1, len(times)):
            inputs.append(x)
            x0, _ = self.denoise(past, n, number, x, knot, drive)
            now, after = (t[:, None, None, None] / 1000 for t in times[number - 1 : number + 1])
            if plan.sampler == "euler":
                x = x0 + after * (x - x0) / now
            else:
                x = (1 - after) * x0 + after * self.draw(n, number, self.span)
        clean = x0[:, :c].copy()
        if knot is not None:
            clean[:, :k] = plan.knot.weight * knot + (1 - plan.knot.weight) * clean[:, :k]
        turns.append(Turn(drive, inputs, knot, clean, x[:, c : plan.blocks * c], x0[:, c : c + k]))
        return clean
