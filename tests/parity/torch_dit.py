"""diffusers' WanTransformer3DModel behind a plain function on numpy arrays."""

import numpy as np
import torch
from diffusers import WanTransformer3DModel

from knotjax.models.dit_config import MASKS, DiTConfig


def build(config: DiTConfig) -> WanTransformer3DModel:
    """The twin of a DiT without sound."""
    model = WanTransformer3DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        in_channels=config.in_channels,
        out_channels=config.latent_channels,
        text_dim=config.text_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.layers,
        eps=config.eps,
        image_dim=config.image_width if config.image_tokens else None,
        added_kv_proj_dim=config.dim if config.image_tokens else None,
    )
    return model.eval().requires_grad_(False)


def fill(model: WanTransformer3DModel, seed: int) -> dict[str, np.ndarray]:
    """Random weights, none of them zero, with which every input counts; returns them by name, not copied."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.normal_(generator=generator)
        if "norm" in name and name.endswith("weight"):
            parameter.mul_(0.3).add_(1.5)
        elif name.endswith("weight"):
            parameter.mul_(1.4 * parameter[0].numel() ** -0.5)
        else:
            parameter.mul_(0.4)
        parameter[parameter == 0] = 0.01
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def forward(model: WanTransformer3DModel, config: DiTConfig, arrays: dict, dtype=torch.float32) -> np.ndarray:
    """The prediction [B, F, H, W, z]; `arrays` as `tests.models.dits.random_inputs` makes them."""
    x, given = (torch.tensor(arrays[name]) for name in ("x", "given"))
    batch, frames, height, width, _ = x.shape
    mask = torch.tensor(arrays["mask"])[:, :, None, None, None].expand(batch, frames, height, width, 1)
    parts = {"plain": [x], "inpaint": [x, given, mask], "image": [x, *[1 - mask] * MASKS, given]}[config.inputs]
    entering = torch.cat(parts, -1).permute(0, 4, 1, 2, 3).to(dtype)
    t = torch.tensor(arrays["t"])
    if config.image_tokens:
        t = t[:, 0]
    else:  # a time for every token
        t = t.repeat_interleave((height // config.patch) * (width // config.patch), 1)
    image = torch.tensor(arrays["image"]).to(dtype) if config.image_tokens else None
    text = torch.tensor(arrays["text"]).to(dtype)
    out = model(entering, t, text, encoder_hidden_states_image=image, return_dict=False)[0]
    return out.float().permute(0, 2, 3, 4, 1).numpy()
