"""A model as it is shipped: DiT, word table and codec, their sizes, and the plan values they were trained for."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from knotjax.drive import STRIDE, TEXT_SLOTS, WORDS
from knotjax.errors import InputError
from knotjax.models.dit import DiT, DiTConfig, undriven
from knotjax.models.patch_codec import CodecConfig, PatchCodec
from knotjax.models.text import WordTable
from knotjax.weights import flatten, load_weights, save_weights, unflatten

SHIPPED = Path(__file__).parent / "assets" / "small"


@dataclasses.dataclass(frozen=True)
class Bundle:
    """Everything that a stream needs from training."""

    dit: DiTConfig
    codec: CodecConfig
    method: str  # name in `streaming.methods.METHODS`
    plan: dict  # keyword arguments of the method
    params: dict  # {"dit": ..., "words": ..., "codec": ...}

    @property
    def denoiser(self) -> DiT:
        return DiT(self.dit)

    @property
    def pixels(self) -> PatchCodec:
        return PatchCodec(self.codec)

    def text(self, words):
        """Text rows of word numbers: int32 [B, T] -> [B, T, text_dim]."""
        return WordTable(len(WORDS), self.dit.text_dim).apply({"params": self.params["words"]}, words)

    def save(self, folder: Path, dtype=np.float16) -> None:
        """Write the bundle; matrices are stored in `dtype`."""
        tensors = {name: np.asarray(array).astype(dtype) for name, array in flatten(self.params).items()}
        config = {
            "dit": dataclasses.asdict(self.dit),
            "codec": dataclasses.asdict(self.codec),
            "words": list(WORDS),
            "method": self.method,
            "plan": self.plan,
        }
        save_weights(folder, tensors, config, "small")


def shapes(dit: DiTConfig, codec: CodecConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters that a model of these sizes must have."""

    def make(key):
        latents = jnp.zeros((1, 1, codec.grid, codec.grid, dit.latent_channels))
        flat = jnp.zeros((1, 1))
        text = jnp.zeros((1, TEXT_SLOTS, dit.text_dim))
        conditions = undriven(dit, text, 1)
        words = WordTable(len(WORDS), dit.text_dim).init(key, jnp.zeros((1, TEXT_SLOTS), jnp.int32))["params"]
        model = DiT(dit).init(key, latents, latents, flat, flat, flat.astype(jnp.int32), conditions)["params"]
        return {"dit": model, "words": words, "codec": {"synthesis": PatchCodec(codec).init_synthesis(key)}}

    tree = jax.eval_shape(make, jax.random.key(0))
    patch = STRIDE * codec.patch**2 * 3
    tree["codec"] |= {"mean": (patch,), "basis": (patch, codec.channels), "scale": (codec.channels,)}
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: isinstance(leaf, tuple))
    return {"/".join(key.key for key in path): tuple(getattr(leaf, "shape", leaf)) for path, leaf in leaves}


def load(folder: Path | str | None = None) -> Bundle:
    """Read a bundle in float32; without a folder, the one that comes with the package.

    Raises:
      InputError: a file is missing, altered, or made for another version.
    """
    folder = Path(folder or SHIPPED)
    tensors, config = load_weights(folder)
    try:
        if config["words"] != list(WORDS):
            raise ValueError("another word list")
        dit = DiTConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in config["dit"].items()})
        codec = CodecConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in config["codec"].items()})
        method, plan = config["method"], config["plan"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder}: made for another version of knotjax ({error}); train or fetch it again") from error
    plan = {key: tuple(value) if isinstance(value, list) else value for key, value in plan.items()}
    for name, shape in shapes(dit, codec).items():
        found = tensors[name].shape if name in tensors else None
        if found != shape:
            problem = "is missing" if found is None else f"has the shape {list(found)}, not {list(shape)}"
            raise InputError(f"weights {str(folder)!r}: tensor {name!r} {problem}: download or install them again")
    params = jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), unflatten(tensors))
    return Bundle(dit, codec, method, plan, params)
