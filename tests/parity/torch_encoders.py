"""The PyTorch twins of the encoders, with weights that are non-zero everywhere."""

import numpy as np
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)


def umt5(config, seed: int):
    """The twin of a `knotjax.models.umt5.UMT5Config`."""
    return _filled(
        UMT5EncoderModel,
        UMT5Config(
            vocab_size=config.vocabulary,
            d_model=config.width,
            d_kv=config.head_dim,
            d_ff=config.ffn_dim,
            num_layers=config.layers,
            num_heads=config.heads,
            relative_attention_num_buckets=config.buckets,
            relative_attention_max_distance=config.max_distance,
            layer_norm_epsilon=config.eps,
        ),
        seed,
    )


def wav2vec2(config, seed: int):
    """The twin of a `knotjax.models.wav2vec2.Wav2Vec2Config`."""
    convolutions = len(config.kernels)
    return _filled(
        Wav2Vec2Model,
        Wav2Vec2Config(
            hidden_size=config.width,
            intermediate_size=config.ffn_dim,
            num_attention_heads=config.heads,
            num_hidden_layers=config.layers,
            num_feat_extract_layers=convolutions,
            conv_dim=(config.conv_width,) * convolutions,
            conv_kernel=config.kernels,
            conv_stride=config.strides,
            conv_bias=config.conv_bias,
            feat_extract_norm=config.conv_norm,
            do_stable_layer_norm=config.stable_layer_norm,
            num_conv_pos_embeddings=config.positions,
            num_conv_pos_embedding_groups=config.position_groups,
            layer_norm_eps=config.eps,
        ),
        seed,
    )


def clip_vision(config, seed: int):
    """The twin of a `knotjax.models.clip_vision.CLIPVisionConfig`."""
    return _filled(
        CLIPVisionModel,
        CLIPVisionConfig(
            hidden_size=config.width,
            intermediate_size=config.ffn_dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            image_size=config.image,
            patch_size=config.patch,
            layer_norm_eps=config.eps,
            hidden_act="gelu",
        ),
        seed,
    )


def _filled(model, config, seed: int):
    config._attn_implementation = "eager"
    model = model(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.normal_(generator=generator)
        parameter[parameter == 0] = 0.01  # one normal float32 in 2 ** 24 is zero
        if ("norm" in name and name.endswith("weight")) or name.endswith("original0"):
            parameter.mul_(0.3).add_(1.5)
        elif name.endswith("bias"):
            parameter.mul_(0.3)
        elif parameter.ndim > 1 and not any(part in name for part in ("shared", "embedding", "relative", "original1")):
            parameter.mul_(1.4 * parameter[0].numel() ** -0.5)
            if "SelfAttention.q." in name:
                parameter.mul_(0.3)  # UMT5 does not scale its scores
        assert torch.all(parameter != 0), name
    return model


def weights(model) -> dict[str, np.ndarray]:
    """The weights under the names that the installed transformers gives them."""
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def wav2vec2_states(model, wave, frames: int | None = None, samples=None) -> np.ndarray:
    """All hidden states [L + 1, B, T, C], with features interpolated before the transformer where `frames` is given.

    In the stable layout the last one has passed the final norm, as in transformers 4, which the avatar systems use.
    `samples` [B] are the lengths of the clips in a padded batch.
    """
    wave = torch.as_tensor(wave)
    kept, handle = model.feature_extractor.forward, model.feature_extractor
    if frames is not None:

        def interpolated(x):
            return torch.nn.functional.interpolate(kept(x), size=frames, mode="linear", align_corners=True)

        handle.forward = interpolated
    mask = None
    if samples is not None:
        mask = torch.arange(wave.shape[1]) < torch.as_tensor(samples)[:, None]
    out = model(wave, attention_mask=mask, output_hidden_states=True)
    handle.forward = kept
    states = [*out.hidden_states[:-1], out.last_hidden_state]
    return torch.stack(states).numpy()
