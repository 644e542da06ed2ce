"""TAEHV in numpy, on a whole clip at once: no batch, no state, original weight names."""

import numpy as np

from tests.models.numpy_conv import conv


def conv3(w, name, x, stride=1):
    bias = w.get(f"{name}.bias", 0.0)
    return conv(x, w[f"{name}.weight"], bias, pad=((0, 0), (1, 1), (1, 1)), stride=(1, stride, stride))


def relu(x):
    return np.maximum(x, 0.0)


def memory(w, name, x):
    before = np.concatenate([np.zeros_like(x[:1]), x[:-1]])
    y = relu(conv3(w, f"{name}.conv.0", np.concatenate([x, before], -1)))
    return relu(conv3(w, f"{name}.conv.4", relu(conv3(w, f"{name}.conv.2", y))) + x)


def encode(w, clip):
    """clip [4F - 3, H, W, 3] in -1 .. 1 -> [F, h, w, z]; the first frame stands four times."""
    x = np.concatenate([clip[:1]] * 3 + [clip])
    x = relu(conv3(w, "encoder.0", (x + 1) / 2))
    for at, joined in ((2, 2), (7, 2), (12, 1)):
        x = np.concatenate([x[i::joined] for i in range(joined)], -1)
        x = conv3(w, f"encoder.{at + 1}", conv(x, w[f"encoder.{at}.conv.weight"]), stride=2)
        for block in range(3):
            x = memory(w, f"encoder.{at + 2 + block}", x)
    return conv3(w, "encoder.17", x)


def decode(w, latents):
    """latents [F, h, w, z] -> [4F - 3, H, W, 3] in -1 .. 1."""
    x = relu(conv3(w, "decoder.1", 3 * np.tanh(latents / 3)))
    for at, made in ((3, 1), (9, 2), (15, 2)):
        for block in range(3):
            x = memory(w, f"decoder.{at + block}", x)
        x = conv(x.repeat(2, axis=1).repeat(2, axis=2), w[f"decoder.{at + 4}.conv.weight"])
        x = np.stack(np.split(x, made, axis=-1), 1).reshape(-1, *x.shape[1:3], x.shape[-1] // made)
        x = conv3(w, f"decoder.{at + 5}", x)
    return 2 * np.clip(conv3(w, "decoder.22", relu(x)), 0.0, 1.0)[3:] - 1
