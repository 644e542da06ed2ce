"""diffusers' AutoencoderKLWan behind plain functions on numpy clips."""

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from knotjax.convert import wan_vae as convert
from knotjax.models.wan_vae import WanVAEConfig


class TorchWanVAE:
    """Float32 on the CPU, with the weights given by their original names."""

    def __init__(self, config: WanVAEConfig, state: dict[str, np.ndarray]):
        base = config.widths[0]
        self.model = AutoencoderKLWan(
            base_dim=base,
            z_dim=config.channels,
            dim_mult=[width // base for width in config.widths],
            num_res_blocks=config.blocks,
            latents_mean=list(config.mean),
            latents_std=list(config.std),
        ).eval()
        named = convert.to_diffusers(convert.from_original(state, config), config)
        self.model.load_state_dict({name: torch.tensor(tensor) for name, tensor in named.items()}, strict=True)
        self.mean = torch.tensor(config.mean)[:, None, None, None]
        self.std = torch.tensor(config.std)[:, None, None, None]

    @torch.no_grad()
    def encode(self, video: np.ndarray) -> np.ndarray:
        """[B, 4F - 3, H, W, 3] -> normalised latents [B, F, h, w, z]."""
        mode = self.model.encode(torch.tensor(video).permute(0, 4, 1, 2, 3)).latent_dist.mode()
        return ((mode - self.mean) / self.std).permute(0, 2, 3, 4, 1).numpy()

    @torch.no_grad()
    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Normalised latents [B, F, h, w, z] -> [B, 4F - 3, H, W, 3]."""
        z = torch.tensor(latents).permute(0, 4, 1, 2, 3) * self.std + self.mean
        return self.model.decode(z).sample.permute(0, 2, 3, 4, 1).numpy()
