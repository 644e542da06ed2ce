"""Training the convolutional decoder further on what the finished model generates.

The decoder of `codec_fit` has seen true latents with a little noise; a generator errs otherwise (too little movement,
seams). So streams are run on training clips with their true drive, and the decoder learns to make the true pixels of
what they give. The linear part of the codec, and with it the latents, stay as they are.
"""

import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from knotjax import sharding
from knotjax.drive import STRIDE
from knotjax.models.patch_codec import PatchCodec, linear_part
from knotjax.models.pixels import to_float
from knotjax.training import corpus, loop
from knotjax.training.codec_fit import decoding_error

log = logging.getLogger("knotjax")


def generate(folder: Path, paths: list[Path], clips: list, drop: dict, batch: int, stream) -> list[Path]:
    """Write what streams make of whole clips, one file each; files that exist are kept.

    A file holds latents float16 [F, h, w, z] as generated, true float16 [F, h, w, z], and shown int32 [1], the latent
    group whose last frame is the portrait.

    Args:
      drop: of `corpus.Windows`.
      stream: from a batch of `corpus.Windows` and a seed to latents [B, F, h, w, z].
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = [folder / path.name for path in paths]
    for low in range(0, len(paths), batch):
        chosen = range(low, min(low + batch, len(paths)))
        if all(found[i].exists() for i in chosen):
            continue
        windows = corpus.Windows(len(clips[low]["group"]), drop)
        samples = [windows.sample(clips[i], np.random.default_rng(i)) for i in chosen]
        filled = samples + samples[-1:] * (batch - len(samples))  # so that one program serves the last batch too
        made = np.asarray(stream({name: np.stack([s[name] for s in filled]) for name in samples[0]}, low), np.float16)
        for i, sample, latents in zip(chosen, samples, made):
            arrays = {"latents": latents, "true": sample["latents"].astype(np.float16), "shown": sample["places"][1:]}
            part = found[i].with_suffix(".part")
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, part)
            part.rename(found[i])
        log.info("polish: %d of %d streams", min(low + batch, len(paths)), len(paths))
    return found


class Generated:
    """A grain map: from paths (rendered clip, its stream) to two latents and the pixels that the second one stands for.

    Args:
      share: of the samples that show generated latents; the others show true ones.
    """

    def __init__(self, share: float):
        self.share = share

    def sample(self, paths: tuple[Path, Path], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One sample.

        Returns:
          latents [2, h, w, z], first bool [], portrait uint8 [H, W, 3], frames uint8 [STRIDE, H, W, 3], mouth
          [STRIDE, 4], x0 y0 x1 y1 in pixels.
        """
        rendered, streamed = paths
        with safe_open(streamed, "np") as file:
            latents = file.get_tensor("latents" if rng.random() < self.share else "true")
            shown = int(file.get_tensor("shown")[0])
        at = int(rng.integers(0, len(latents)))
        begin = STRIDE * at
        with safe_open(rendered, "np") as file:
            frames, boxes = file.get_slice("frames"), file.get_tensor("mouth")
            portrait = frames[STRIDE * shown + STRIDE - 1 : STRIDE * shown + STRIDE][0]
            group, boxes = frames[begin : begin + STRIDE], boxes[begin : begin + STRIDE]
        if at == 0:  # a stream's first latent is the group's last frame alone
            group, boxes = (np.repeat(a[-1:], STRIDE, 0) for a in (group, boxes))
        return {
            "latents": latents[[max(0, at - 1), at]].astype(np.float32),
            "first": np.array(at == 0),
            "portrait": portrait,
            "frames": group,
            "mouth": boxes,
        }


def polish(section, workdir: Path, codec: PatchCodec, params: dict, pairs: list, kept: loop.Running, seed: int) -> dict:
    """Run or resume the stage.

    Args:
      section: steps, rate and so on of the optimiser; share, batch, ema, mouth, smooth of `decoding_error`.
      params: of the codec.
      pairs: of paths, rendered clip and its stream.

    Returns:
      The codec's parameters with the new decoder.
    """
    linear = linear_part(params)

    def loss(weights, batch, key):
        return decoding_error(
            codec,
            {**linear, "synthesis": weights},
            to_float(batch["portrait"]),
            batch["latents"],
            batch["first"],
            to_float(batch["frames"]),
            batch["mouth"],
            mouth=section.mouth,
            smooth=section.smooth,
        )

    optimiser = loop.make_optimiser(**section.optimiser)
    update = loop.make_update(loss, optimiser, section.ema)
    weights = jax.tree.map(jnp.copy, params["synthesis"])  # the update uses its own up
    state = loop.init_state(weights, optimiser, seed)
    index, count = sharding.data_shard(kept.mesh) if kept.mesh else (0, 1)
    data = corpus.batches(pairs, Generated(section.share), section.batch // count, seed, (index, count))
    state = loop.run("polish", workdir, update, state, data, kept, steps=section.optimiser.steps)
    return params | {"synthesis": sharding.gather(state.ema)}
