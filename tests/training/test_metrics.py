"""What a run tells."""

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from knotjax.training import loop, metrics


def test_rows_and_pictures(tmp_path):
    writer = metrics.Writer(tmp_path, "dit")
    writer.write_scalars(20, {"loss": 0.25, "seconds": 1.5})
    writer.write_scalars(40, {"loss": 0.125})
    pictures = np.random.default_rng(0).integers(0, 256, (2, 4, 12, 3)).astype(np.uint8)
    writer.write_images(40, {"strips": pictures})
    writer.flush()
    writer.close()
    rows = [json.loads(line) for line in (tmp_path / "dit.jsonl").read_text().splitlines()]
    assert rows == [{"step": 20, "loss": 0.25, "seconds": 1.5}, {"step": 40, "loss": 0.125}]
    shown = np.asarray(Image.open(tmp_path / "dit_strips" / "000040.png"))
    np.testing.assert_array_equal(shown, np.concatenate(pictures))


def test_tensorboard_when_installed(tmp_path):
    pytest.importorskip("tensorboardX")
    writer = metrics.Writer(tmp_path, "dit")
    writer.write_scalars(3, {"a_loss": 0.5})
    writer.close()
    (events,) = (tmp_path / "dit_events").iterdir()
    assert b"a_loss" in events.read_bytes()


def test_tensorboard_is_not_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    writer = metrics.Writer(tmp_path, "dit")
    writer.write_scalars(3, {"loss": 0.5})
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["dit.jsonl"]


def test_means_and_pace(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    meter = metrics.Meter(tokens=60, flops=500, peak=1000.0)
    clock[0] += 50.0  # compiling
    meter.add({"loss": jnp.asarray(1.0)})
    for scalars in ({"loss": 2.0}, {"loss": 6.0, "generator": 5.0}):
        clock[0] += 2.0
        meter.add({key: jnp.asarray(value) for key, value in scalars.items()})
    with meter.pause():
        clock[0] += 30.0  # a save
    row = meter.take()
    assert row == {"seconds": 2.0, "loss": 3.0, "generator": 5.0, "tokens_per_second": 30.0, "utilisation": 0.25}
    clock[0] += 4.0
    meter.add({"loss": jnp.asarray(0.1, jnp.float32)})
    row = meter.take()
    assert row["seconds"] == 4.0 and np.float32(row["loss"]) == np.float32(0.1), "single losses are kept to the bit"


def test_first_step_alone_has_no_pace():
    meter = metrics.Meter(tokens=60)
    meter.add({"loss": jnp.asarray(1.0)})
    assert meter.take() == {"loss": 1.0}


def test_a_step_is_counted_where_a_peak_is_known():
    @jax.jit
    def update(state, batch):
        return state @ batch, {}

    a = jnp.ones((8, 8))
    running = loop.Running(log_every=1, save_every=1, peak=1e6)
    assert loop._meter(update, a, a, 0, running).flops == 2 * 8**3
    assert loop._meter(update, a, a, 0, loop.Running(1, 1)).flops == 0, "a CPU's peak is not in the table"
