"""Writes umt5, wav2vec2_base, wav2vec2_large and clip_vision to `tests/golden`: tiny PyTorch encoders, their outputs.

    python -m tests.parity.make_golden_encoders

Needs torch and transformers (written with torch 2.13.0 and transformers 5.24.0). The tests that read the files need
neither.
"""

import numpy as np
import torch

from tests.models import encoders
from tests.parity import torch_encoders as twins


def _store(name: str, model, **arrays) -> None:
    weights = {f"weight/{key}": value for key, value in twins.weights(model).items()}
    weights.pop("weight/encoder.embed_tokens.weight", None)  # shared.weight again
    np.savez_compressed(encoders.GOLDEN / f"{name}.npz", **weights, **arrays)


@torch.no_grad()
def main() -> None:
    rng = np.random.default_rng(0)
    encoders.GOLDEN.mkdir(exist_ok=True)

    model = twins.umt5(encoders.UMT5, seed=0)
    valid = np.arange(150) < np.array([150, 60])[:, None]
    ids = np.where(valid, rng.integers(1, encoders.UMT5.vocabulary, valid.shape), 0).astype(np.int32)
    out = model(torch.as_tensor(ids).long(), attention_mask=torch.as_tensor(valid)).last_hidden_state
    _store("umt5", model, ids=ids, valid=valid, out=out.numpy())

    for layout, config in encoders.WAV2VEC2.items():
        model = twins.wav2vec2(config, seed=1)
        wave = rng.standard_normal((2, 6400)).astype(np.float32)
        frames = 7
        _store(
            f"wav2vec2_{layout}",
            model,
            wave=wave,
            frames=frames,
            states=twins.wav2vec2_states(model, wave),
            interpolated=twins.wav2vec2_states(model, wave, frames),
        )

    model = twins.clip_vision(encoders.CLIP, seed=2)
    pixels = rng.standard_normal((2, encoders.CLIP.image, encoders.CLIP.image, 3)).astype(np.float32)
    out = model(torch.as_tensor(pixels).permute(0, 3, 1, 2), output_hidden_states=True)
    _store("clip_vision", model, pixels=pixels, tokens=out.hidden_states[-2].numpy(), pooled=out.pooler_output.numpy())


if __name__ == "__main__":
    main()
