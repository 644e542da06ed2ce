"""Real-time streaming portrait animation by video diffusion, in JAX and Flax.

    from knotjax import Animator
    Animator.load().animate("portrait.png", "hello.wav", "out.mp4")

Names load on first use, so that `import knotjax` alone is quick.
"""

import importlib

_NAMES = {
    "Animator": "pipeline",
    "Bundle": "bundle",
    "CodecConfig": "models.patch_codec",
    "Conditions": "models.dit",
    "DiT": "models.dit",
    "DiTConfig": "models.dit",
    "Edit": "edits",
    "InputError": "errors",
    "METHODS": "streaming.methods",
    "PatchCodec": "models.patch_codec",
    "Piece": "portrait_stream",
    "PortraitStream": "portrait_stream",
    "Report": "recording",
    "StreamPlan": "streaming.plan",
    "StreamState": "streaming.step",
    "init_stream": "streaming.step",
    "load": "checkpoints",
    "stream_step": "streaming.step",
}
__all__ = list(_NAMES)


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module 'knotjax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"knotjax.{_NAMES[name]}"), name)
