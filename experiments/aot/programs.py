"""What is compiled ahead of time, and for which accelerators; no accelerator is needed.

`pip install 'knotjax[aot]'` brings the compilers: libtpu, and jax's CUDA plug-in.
"""

import dataclasses
import os

# read when jax starts
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # there is no chip to share
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from knotjax.evaluation.cost import step_shapes
from knotjax.models.dit import DiT
from knotjax.models.taehv import TAEHV, TAEHVConfig
from knotjax.models.wan_vae import WanVAE, WanVAEConfig
from knotjax.presets import PRESETS
from knotjax.streaming.methods import METHODS
from knotjax.streaming.step import stream_step

GIB = 2**30
RESOLUTIONS = {"480x832": (480, 832), "512x512": (512, 512)}


@dataclasses.dataclass(frozen=True)
class Target:
    """One accelerator."""

    platform: str  # "tpu" or "cuda"
    topology: str  # name of a TPU topology
    memory: float  # GiB
    kernel: str
    gpu: dict | None = None  # fields of XLA's description of a GPU


def _gpu(cores, shared, most_shared, threads, l2, memory, bandwidth, clock, capability):
    return dict(
        threads_per_block_limit=1024,
        threads_per_warp=32,
        shared_memory_per_block=49152,
        shared_memory_per_core=shared,
        shared_memory_per_block_optin=most_shared,
        threads_per_core_limit=threads,
        core_count=cores,
        fpus_per_core=128,
        block_dim_limit_x=2147483647,
        block_dim_limit_y=65535,
        block_dim_limit_z=65535,
        memory_bandwidth=bandwidth,
        l2_cache_size=l2,
        clock_rate_ghz=clock,
        device_memory_size=memory,
        registers_per_core_limit=65536,
        registers_per_block_limit=65536,
        cuda_compute_capability=dict(zip(("major", "minor"), capability)),
    )


TARGETS = {
    "v5e": Target("tpu", "v5e:2x2", 16, "splash"),
    "v6e": Target("tpu", "v6e:2x2", 32, "splash"),
    "v5p": Target("tpu", "v5p:2x2x1", 95, "splash"),
    "H200": Target(
        "cuda", "", 141, "cudnn", _gpu(132, 233472, 232448, 2048, 52428800, 150754820096, 4800000000000, 1.98, (9, 0))
    ),
    "24 GB": Target(  # RTX 4090
        "cuda", "", 24, "cudnn", _gpu(128, 102400, 101376, 1536, 75497472, 25393692672, 1008000000000, 2.52, (8, 9))
    ),
}


def _proto(fields: dict) -> str:
    """A text proto."""
    parts = []
    for name, value in fields.items():
        if isinstance(value, dict):
            parts.append(f"{name} {{ {_proto(value)} }}")
        else:
            parts.append(f'{name}: "{value}"' if isinstance(value, str) else f"{name}: {value}")
    return " ".join(parts)


def device_mesh(target: Target) -> Mesh:
    """A mesh of one device of the target."""
    if target.platform == "tpu":
        found = topologies.get_topology_desc(platform="tpu", topology_name=target.topology)
    else:
        described = dict(
            gpu_device_info=target.gpu, platform_name="CUDA", dnn_version_info=dict(major=9, minor=8, patch=0)
        )
        found = topologies.get_topology_desc(
            platform="cuda", topology_name="", topology="1x1x1", target_config=_proto(described)
        )
    return Mesh(np.array(found.devices[:1]), ("one",))


def _half(shape):
    """The same in bfloat16, if it is a float."""
    floats = jnp.issubdtype(shape.dtype, jnp.floating)
    return jax.ShapeDtypeStruct(shape.shape, jnp.bfloat16 if floats else shape.dtype)


def streaming_step(target: Target, size: tuple[int, int], method: str):
    """The step of a 1.3B model with inpainting input; the state (argument 1) is donated."""
    model, plan = DiT(PRESETS["wan2.1-inpaint-1.3b"], target.kernel), METHODS[method]()
    plain = DiT(model.config)  # shapes only
    shapes = jax.tree.map(_half, step_shapes(plain, plan, (size[0] // 8, size[1] // 8), 512, jnp.bfloat16))
    return lambda params, state, drive: stream_step(model, plan, params, state, drive), shapes


def decode(target: Target, size: tuple[int, int], codec: str):
    """Three latents through a codec; the state (argument 1) is donated."""
    module, config = {"wan_vae": (WanVAE, WanVAEConfig), "taehv": (TAEHV, TAEHVConfig)}[codec]
    model = module(config(*size))

    def build(key):
        params = model.init_params(key)
        latents = jnp.zeros((1, 3, size[0] // 8, size[1] // 8, 16), jnp.bfloat16)
        return params, model.init_decode(params, jnp.zeros((1, *size, 3), jnp.bfloat16)), latents

    return model.decode_step, jax.tree.map(_half, jax.eval_shape(build, jax.random.key(0)))


def compiled(function, shapes, target: Target):
    """The executable, for one device of the target."""
    where = NamedSharding(device_mesh(target), PartitionSpec())
    run = jax.jit(function, donate_argnums=1, in_shardings=where, out_shardings=where)
    return run.trace(*shapes).lower(lowering_platforms=(target.platform,)).compile()


def facts(executable, shapes) -> dict:
    """Sizes in GiB: of weights, state, temporaries, what of the output lies in the state's place, and the peak."""
    memory = executable.memory_analysis()
    weights, state = (
        sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf.dtype, "itemsize"))
        for tree in shapes[:2]
    )
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    sizes = {
        "weights": weights,
        "state": state,
        "aliased": memory.alias_size_in_bytes,
        "temp": memory.temp_size_in_bytes,
        "peak": peak,
    }
    return {name: round(size / GIB, 3) for name, size in sizes.items()}
