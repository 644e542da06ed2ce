"""Convolution as a sum over the window, for plain references: weights in PyTorch's layout, clips [T, H, W, C]."""

import itertools

import numpy as np


def conv(x, weight, bias=0.0, *, pad=((0, 0), (0, 0), (0, 0)), stride=(1, 1, 1)):
    """x [T, H, W, C], weight [O, C, kt, kh, kw] or [O, C, kh, kw] -> [T', H', W', O]; pads zeros (before, after)."""
    weight = weight[:, :, None] if weight.ndim == 4 else weight
    x = np.pad(x, (*pad, (0, 0)))
    size = [(n - k) // s + 1 for n, k, s in zip(x.shape[:3], weight.shape[2:], stride)]
    out = np.zeros((*size, weight.shape[0])) + bias
    for offset in itertools.product(*(range(k) for k in weight.shape[2:])):
        window = tuple(slice(o, o + (n - 1) * s + 1, s) for o, n, s in zip(offset, size, stride))
        out += x[window] @ weight[:, :, *offset].T
    return out
