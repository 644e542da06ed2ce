"""TAEHV for Wan 2.1 in plain PyTorch, for whole clips: a list of layers, numbered as in the published file."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from knotjax.models.taehv import TAEHVConfig


class Memory(nn.Module):
    """Sees each frame and the one before; the first has zeros before it."""

    def __init__(self, width):
        super().__init__()
        sizes = (2 * width, width, width)
        layers = [layer for size in sizes for layer in (nn.Conv2d(size, width, 3, padding=1), nn.ReLU())]
        self.conv = nn.Sequential(*layers[:-1])

    def forward(self, x):  # [T, C, H, W]
        before = torch.roll(x, 1, dims=0)
        before[0] = 0
        return functional.relu(x + self.conv(torch.cat((x, before), dim=1)))


class Pool(nn.Module):
    """Joins so many frames to one."""

    def __init__(self, width, joined):
        super().__init__()
        self.joined = joined
        self.conv = nn.Conv2d(joined * width, width, 1, bias=False)

    def forward(self, x):
        return self.conv(x.unflatten(0, (-1, self.joined)).flatten(1, 2))


class Grow(nn.Module):
    """Makes so many frames of one."""

    def __init__(self, width, made):
        super().__init__()
        self.made = made
        self.conv = nn.Conv2d(width, made * width, 1, bias=False)

    def forward(self, x):
        return self.conv(x).unflatten(1, (self.made, -1)).flatten(0, 1)


class Limit(nn.Module):
    """Keeps latents between -3 and 3."""

    def forward(self, x):
        return torch.tanh(x / 3) * 3


class TorchTAEHV(nn.Module):
    """Float32 on the CPU, with the weights given by their original names."""

    def __init__(self, config: TAEHVConfig, state: dict[str, np.ndarray]):
        super().__init__()
        width, widths = config.encoder_width, config.decoder_widths
        encoder = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
        for joined in (2, 2, 1):
            encoder += [Pool(width, joined), nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)]
            encoder += [Memory(width) for _ in range(config.blocks)]
        encoder += [nn.Conv2d(width, config.channels, 3, padding=1)]
        decoder = [Limit(), nn.Conv2d(config.channels, widths[0], 3, padding=1), nn.ReLU()]
        for before, after, made in zip(widths[:-1], widths[1:], (1, 2, 2)):
            decoder += [Memory(before) for _ in range(config.blocks)]
            decoder += [nn.Upsample(scale_factor=2), Grow(before, made)]
            decoder += [nn.Conv2d(before, after, 3, padding=1, bias=False)]
        decoder += [nn.ReLU(), nn.Conv2d(widths[-1], 3, 3, padding=1)]
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)
        self.load_state_dict({name: torch.tensor(tensor) for name, tensor in state.items()}, strict=True)

    @torch.no_grad()
    def encode(self, video: np.ndarray) -> np.ndarray:
        """[B, 4F - 3, H, W, 3] in -1 .. 1 -> [B, F, h, w, z]; the first frame stands four times."""
        clips = torch.tensor(video).permute(0, 1, 4, 2, 3) / 2 + 0.5
        out = [self.encoder(torch.cat((clip[:1].expand(3, -1, -1, -1), clip))) for clip in clips]
        return torch.stack(out).permute(0, 1, 3, 4, 2).numpy()

    @torch.no_grad()
    def decode(self, latents: np.ndarray) -> np.ndarray:
        """[B, F, h, w, z] -> [B, 4F - 3, H, W, 3] in -1 .. 1; the first three frames are cut off."""
        clips = torch.tensor(latents).permute(0, 1, 4, 2, 3)
        out = torch.stack([self.decoder(clip)[3:] for clip in clips])
        return out.clamp(0, 1).mul(2).sub(1).permute(0, 1, 3, 4, 2).numpy()
