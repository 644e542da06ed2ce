"""Text rows for the DiT's cross-attention."""

import flax.linen as nn


class WordTable(nn.Module):
    """A learned vector for every word of a closed list: the small model's text encoder."""

    words: int
    width: int

    @nn.compact
    def __call__(self, ids):  # int32 [B, T] -> [B, T, width]
        return nn.Embed(self.words, self.width, name="table")(ids)
