"""SoulX-LiveAct (arXiv 2603.11746): Neighbor Forcing with ConvKV memory, then DMD; no ODE regression.

    python -m knotjax train --config=configs/live_act.py:small --workdir=out/live_act

The memory's weights learn in both stages: in `causal` in the parallel form (Fig. 3, left), in `dmd` inside the rollout.
The paper's own first stage trains the audio cross-attention alone: `--config.stages="('teacher',)"
--config.teacher.optimiser.only="('audio', 'audio_tokens')"`. Sizes: debug, small, 1.3b, 14b. `small` was run on two
CPU cores with fewer steps and smaller batches: command and figures in `experiments/distill`. The others not yet.
"""

from knotjax.training.recipes import recipe


def get_config(arg: str = ""):
    """`arg` is a size; without one, small."""
    config = recipe(
        arg,
        method="live_act",
        plan={},
        frames=22,  # 6 + 8 + 8
        small_frames=22,
        stages=("teacher", "causal", "dmd"),
        kind="neighbor_forcing",
    )
    if config.size in ("1.3b", "14b"):
        config.dmd.steps = 5 * 300  # the paper: 300 distillation steps (400 in its Table 4), read as student updates
    return config
