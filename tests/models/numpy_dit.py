"""The Wan 2.1 DiT with context and drive, written a second time in plain numpy, float64, with plain loops."""

import math

import numpy as np

EPS = 1e-6


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def normalised(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPS)


def affine_norm(p, x, eps=EPS):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * p["scale"] + p["bias"]


def gelu(x):
    return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def rms_norm(p, x):
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + EPS) * p["weight"]


def silu(x):
    return x / (1.0 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


def softmax_attention(q, k, v, valid=None):
    """q [Q, N, D], k, v [K, N, D], valid bool [K] -> [Q, N, D]; keys that do not exist are left out altogether."""
    if valid is not None:
        k, v = k[valid], v[valid]
    out = np.empty_like(q)
    for head in range(q.shape[1]):
        scores = q[:, head] @ k[:, head].T / math.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, head] = weights / weights.sum(-1, keepdims=True) @ v[:, head]
    return out


def rope_factors(time, rows, columns, head_dim):
    """Complex unit numbers [rows * columns, head_dim / 2] by which the pairs of one frame's tokens are multiplied."""
    side = 2 * (head_dim // 6)  # channels for height and for width
    widths = (head_dim - 2 * side, side, side)
    out = []
    for row in range(rows):
        for column in range(columns):
            angle = []
            for position, width in zip((time, row, column), widths):
                angle += [position * 10_000.0 ** (-2.0 * i / width) for i in range(width // 2)]
            out.append(np.exp(1j * np.array(angle)))
    return np.array(out)


def rotated(x, factors):
    """x [S, N, D], interleaved pairs as complex numbers, times factors [S, D / 2]."""
    pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * factors[:, None]
    out = np.empty_like(x)
    out[..., 0::2], out[..., 1::2] = pairs.real, pairs.imag
    return out


def tokens_of(image, patch):
    """[H, W, C] -> [S, patch * patch * C], rows of the patch first, channels fastest."""
    height, width, _ = image.shape
    return np.array(
        [
            image[r : r + patch, c : c + patch].reshape(-1)
            for r in range(0, height, patch)
            for c in range(0, width, patch)
        ]
    )


def image_of(tokens, shape, patch):
    image, at = np.empty(shape), 0
    for r in range(0, shape[0], patch):
        for c in range(0, shape[1], patch):
            image[r : r + patch, c : c + patch] = tokens[at].reshape(patch, patch, -1)
            at += 1
    return image


def frame_tokens(p, window, count):
    """[F, P, C] -> [F, count, width]."""
    x = window.reshape(window.shape[0], -1)
    x = dense(p["output"], silu(dense(p["middle"], silu(dense(p["input"], x)))))
    return affine_norm(p["norm"], x.reshape(x.shape[0], count, -1))


def pixel_frame_tokens(p, window, count):
    """[F, 8, C + 1] -> [F, count, width]: MultiTalk's two first layers, chosen frame by frame."""
    out = []
    for rows in window:
        if rows[0, -1] == 1.0:
            x = dense(p["first"], rows[:5, :-1].reshape(-1))
        else:
            x = dense(p["later"], rows[:, :-1].reshape(-1))
        x = np.maximum(dense(p["middle"], np.maximum(x, 0.0)), 0.0)
        out.append(affine_norm(p["norm"], dense(p["output"], x).reshape(count, -1), 1e-5))
    return np.array(out)


def packed_sound(p, window):
    """[F, 4, C] -> [F, 32]."""
    return affine_norm(p["norm"], dense(p["pack"], window.reshape(len(window), -1)), 1e-5)


def image_rows(p, image):
    """[257, 1280] -> [257, C]."""
    x = gelu(dense(p["input"], affine_norm(p["norm_in"], image, 1e-5)))
    return affine_norm(p["norm_out"], dense(p["output"], x), 1e-5)


def forward(c, params, x, given, mask, t, position, text, audio, motion, contexts, image=None):
    """One sample.

    Args:
      x, given: [F, H, W, z].
      mask, t, position: [F].
      text: [T, C].
      audio, motion: [F, P, C] or None.
      image: [A, W] or None.
      contexts: (k [L, F, N, S, D], v, position [F], valid [F]) of every group.

    Returns:
      The output [F, H, W, z], k and v [L, F, N, S, D].
    """
    frames, height, width, z = x.shape
    rows, columns = height // c.patch, width // c.patch
    split = (rows * columns, c.heads, c.head_dim)

    channel = np.broadcast_to(mask[:, None, None, None], (*x.shape[:3], 1))
    joined = {
        "plain": [x],
        "inpaint": [x, given, channel],
        "image": [x, *[1.0 - channel] * 4, given],
    }[c.inputs]
    joined = np.concatenate(joined, -1)
    h = np.array([dense(params["patch_embedding"], tokens_of(image, c.patch)) for image in joined])  # [F, S, C]

    half = c.freq_dim // 2
    angle = t[:, None] * 10_000.0 ** (-np.arange(half) / half)
    e = dense(params["time_in"], np.concatenate([np.cos(angle), np.sin(angle)], -1))
    e = dense(params["time_out"], silu(e))  # [F, C]
    e6 = dense(params["time_projection"], silu(e)).reshape(frames, 6, -1)
    text = dense(params["text_out"], gelu_tanh(dense(params["text_in"], text)))
    packed = None
    if c.audio_tokens:
        if c.audio_form == "window":
            audio = frame_tokens(params["audio_tokens"], audio, c.audio_tokens)
        elif c.audio_form == "pixel_frames":
            audio = pixel_frame_tokens(params["audio_tokens"], audio, c.audio_tokens)
        else:
            packed, audio = packed_sound(params["audio_tokens"], audio), None
    if c.image_tokens:
        image = image_rows(params["image_tokens"], image)
    if c.motion_tokens:
        motion = frame_tokens(params["motion_tokens"], motion, c.motion_tokens)

    keys, values = [], []
    for layer in range(c.layers):
        group, inside = divmod(layer, c.motion_every)
        block = params["blocks"][f"block{inside}"]

        def take(tree, group=group):
            return {name: take(leaf) if isinstance(leaf, dict) else leaf[group] for name, leaf in tree.items()}

        p = take(block)
        shift_sa, scale_sa, gate_sa, shift_ff, scale_ff, gate_ff = (
            (p["modulation"] + e6)[:, i][:, None] for i in range(6)
        )
        if packed is not None and 2 <= layer <= c.layers // 2:
            one = {name: leaf[layer - 2] for name, leaf in params["audio_add"].items()}
            h = h + dense(one, packed)[:, None]
        y = normalised(h) * (1.0 + scale_sa) + shift_sa
        q = rms_norm(p["norm_q"], dense(p["q"], y)).reshape(frames, *split)
        k = rms_norm(p["norm_k"], dense(p["k"], y)).reshape(frames, *split)
        v = dense(p["v"], y).reshape(frames, *split)
        keys.append(k.swapaxes(1, 2))
        values.append(v.swapaxes(1, 2))
        seen_k, seen_v = [], []
        for f in range(frames):
            seen_k.append(rotated(k[f], rope_factors(position[f], rows, columns, c.head_dim)))
            seen_v.append(v[f])
        for context_k, context_v, times, valid in contexts:
            for f in range(len(times)):
                if valid[f]:
                    past_k, past_v = (a[layer, f].swapaxes(0, 1) for a in (context_k, context_v))
                    seen_k.append(rotated(past_k, rope_factors(times[f], rows, columns, c.head_dim)))
                    seen_v.append(past_v)
        seen_k, seen_v = np.concatenate(seen_k), np.concatenate(seen_v)
        for f in range(frames):
            turned = rotated(q[f], rope_factors(position[f], rows, columns, c.head_dim))
            out = softmax_attention(turned, seen_k, seen_v).reshape(rows * columns, -1)
            h[f] = h[f] + gate_sa[f] * dense(p["o"], out)

        text_k = rms_norm(p["text_norm_k"], dense(p["text_k"], text)).reshape(-1, *split[1:])
        text_v = dense(p["text_v"], text).reshape(-1, *split[1:])
        for f in range(frames):
            q = rms_norm(p["text_norm_q"], dense(p["text_q"], affine_norm(p["norm_text"], h[f]))).reshape(split)
            out = softmax_attention(q, text_k, text_v)
            if image is not None:
                image_k = rms_norm(p["image_norm_k"], dense(p["image_k"], image)).reshape(-1, *split[1:])
                out = out + softmax_attention(q, image_k, dense(p["image_v"], image).reshape(-1, *split[1:]))
            h[f] = h[f] + dense(p["text_o"], out.reshape(split[0], -1))
        for name, tokens in (("audio", audio), ("motion", motion if inside == 0 else None)):
            if tokens is not None:
                for f in range(frames):
                    q = dense(p[name]["q"], affine_norm(p[name]["norm"], h[f])).reshape(split)
                    pair = dense(p[name]["kv"], tokens[f]).reshape(-1, 2, *split[1:])
                    out = softmax_attention(q, pair[:, 0], pair[:, 1])
                    h[f] = h[f] + dense(p[name]["o"], out.reshape(split[0], -1))
        y = normalised(h) * (1.0 + scale_ff) + shift_ff
        h = h + gate_ff * dense(p["ffn_out"], gelu_tanh(dense(p["ffn_in"], y)))

    shift, scale = (params["head_modulation"][i] + e[:, None] for i in range(2))
    out = dense(params["head"], normalised(h) * (1.0 + scale) + shift)
    out = np.array([image_of(tokens, x.shape[1:], c.patch) for tokens in out])
    if c.given_residual:
        out = out + dense(params["given_gate"], silu(e))[:, None, None] * given
    return out, np.array(keys), np.array(values)
