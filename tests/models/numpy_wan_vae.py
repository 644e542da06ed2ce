"""The Wan 2.1 VAE in numpy, on a whole clip at once: causal padding, no caches, no batch, original weight names."""

import numpy as np

from tests.models.numpy_conv import conv


def causal(w, name, x):
    kt, kh, kw = w[f"{name}.weight"].shape[2:]
    pad = ((kt - 1, 0), (kh // 2, kh // 2), (kw // 2, kw // 2))
    return conv(x, w[f"{name}.weight"], w[f"{name}.bias"], pad=pad)


def norm(w, name, x):
    gamma = w[f"{name}.gamma"].reshape(-1)
    return x / np.linalg.norm(x, axis=-1, keepdims=True) * np.sqrt(x.shape[-1]) * gamma


def silu(x):
    return x / (1.0 + np.exp(-x))


def residual(w, name, x):
    y = causal(w, f"{name}.residual.2", silu(norm(w, f"{name}.residual.0", x)))
    y = causal(w, f"{name}.residual.6", silu(norm(w, f"{name}.residual.3", y)))
    return y + (causal(w, f"{name}.shortcut", x) if f"{name}.shortcut.weight" in w else x)


def attention(w, name, x):
    y = conv(norm(w, f"{name}.norm", x), w[f"{name}.to_qkv.weight"], w[f"{name}.to_qkv.bias"])
    out = np.empty_like(x)
    for t, frame in enumerate(y):
        q, k, v = np.split(frame.reshape(-1, frame.shape[-1]), 3, axis=-1)
        scores = q @ k.T / np.sqrt(q.shape[-1])
        weight = np.exp(scores - scores.max(-1, keepdims=True))
        out[t] = (weight / weight.sum(-1, keepdims=True) @ v).reshape(out[t].shape)
    return x + conv(out, w[f"{name}.proj.weight"], w[f"{name}.proj.bias"])


def down(w, name, x):
    x = conv(
        x,
        w[f"{name}.resample.1.weight"],
        w[f"{name}.resample.1.bias"],
        pad=((0, 0), (0, 1), (0, 1)),
        stride=(1, 2, 2),
    )
    if f"{name}.time_conv.weight" not in w or len(x) == 1:
        return x
    later = conv(x, w[f"{name}.time_conv.weight"], w[f"{name}.time_conv.bias"], stride=(2, 1, 1))
    return np.concatenate([x[:1], later])


def up(w, name, x):
    if f"{name}.time_conv.weight" in w and len(x) > 1:
        both = causal(w, f"{name}.time_conv", x[1:])  # the first frame is not in the history
        early, late = np.split(both, 2, axis=-1)
        x = np.concatenate([x[:1], np.stack([early, late], 1).reshape(-1, *x.shape[1:])])
    x = x.repeat(2, axis=1).repeat(2, axis=2)
    return conv(x, w[f"{name}.resample.1.weight"], w[f"{name}.resample.1.bias"], pad=((0, 0), (1, 1), (1, 1)))


def middle(w, part, x):
    x = attention(w, f"{part}.middle.1", residual(w, f"{part}.middle.0", x))
    return residual(w, f"{part}.middle.2", x)


def layers(w, prefix, x, resample):
    """The numbered layers, which say by their weights what they are."""
    count = 1 + max(int(name.split(".")[2]) for name in w if name.startswith(prefix))
    for n in range(count):
        name = f"{prefix}.{n}"
        x = residual(w, name, x) if f"{name}.residual.2.weight" in w else resample(w, name, x)
    return x


def encode(w, mean, std, clip):
    """clip [4F - 3, H, W, 3] -> [F, h, w, z]."""
    x = layers(w, "encoder.downsamples", causal(w, "encoder.conv1", clip), down)
    x = middle(w, "encoder", x)
    x = causal(w, "encoder.head.2", silu(norm(w, "encoder.head.0", x)))
    return (causal(w, "conv1", x)[..., : len(mean)] - mean) / std


def decode(w, mean, std, latents):
    """latents [F, h, w, z] -> [4F - 3, H, W, 3]."""
    x = causal(w, "decoder.conv1", causal(w, "conv2", latents * std + mean))
    x = layers(w, "decoder.upsamples", middle(w, "decoder", x), up)
    return np.clip(causal(w, "decoder.head.2", silu(norm(w, "decoder.head.0", x))), -1.0, 1.0)
