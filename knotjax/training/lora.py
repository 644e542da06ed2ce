"""Low-rank pairs beside frozen kernels (LoRA, arXiv 2106.09685), merged on the fly.

Trained parameters are then the pairs alone: `merge` is differentiable in them, so any loss of full parameters is a loss
of pairs. Stacked kernels of scanned layers get stacked pairs.
"""

import jax
import jax.numpy as jnp

# Self-attention and feed-forward, as in OmniAvatar's and LongLive's adapters.
NAMES = ("q", "k", "v", "o", "ffn_in", "ffn_out")


def init(params, rank: int, key, names=NAMES):
    """New pairs for the kernels of the modules in `names`; they change nothing yet.

    Returns:
      A dict from the kernel's path to {"down": [..., in, rank], "up": [..., rank, out]}; `up` is zero.
    """
    pairs = {}
    for number, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(params)):
        parts = [part.key for part in path]
        own = len(parts) > 2 and parts[-3].startswith("block")  # a block's, not those of its cross-attentions
        if own and parts[-1] == "kernel" and parts[-2] in names:
            *lead, rows, columns = leaf.shape
            draw = jax.random.normal(jax.random.fold_in(key, number), (*lead, rows, rank), leaf.dtype)
            pairs["/".join(parts)] = {"down": draw * rows**-0.5, "up": jnp.zeros((*lead, rank, columns), leaf.dtype)}
    return pairs


def merge(params, pairs, scale: float = 1.0):
    """Parameters with the pairs added: kernel + scale * down @ up. `scale` is alpha / rank."""

    def one(path, leaf):
        pair = pairs.get("/".join(part.key for part in path))
        return leaf if pair is None else leaf + scale * (pair["down"] @ pair["up"]).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, params)
