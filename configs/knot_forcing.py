"""Knot Forcing (arXiv 2512.21734): masked-inpainting teacher, causal initialisation, DMD with self-rollout.

    python -m knotjax train --config=configs/knot_forcing.py:small --workdir=out/knot

The paper gives c = 3, L = 6, k = 1 and four steps, and says that it follows Self Forcing; optimiser, batch, teacher and
guidance are Self Forcing's, the running-ahead numbers those of the one public re-implementation, the shares of hidden
and given frames ours. Sizes: debug, small, 1.3b, 14b. `small` was run (teacher and causal stage 4 minutes of steps on
one H200, dmd 30 minutes on two CPU cores) and made the model that comes along: figures in `experiments/distill`. The
others not yet.
"""

from knotjax.training.recipes import recipe


def get_config(arg: str = ""):
    """`arg` is a size; without one, small."""
    config = recipe(
        arg,
        method="knot_forcing",
        plan=dict(chunk=3, window=6, knot=1, start=8, stride=4),
        frames=21,  # SF
        small_frames=21,
        stages=("teacher", "causal", "dmd"),
        kind="stream_flow",  # ours: the paper goes from its fine-tuned teacher to distillation without a word between
    )
    if config.size == "small":
        config.dmd.frames = 15  # five blocks, so that two CPU cores make a step in 3 s
    return config
