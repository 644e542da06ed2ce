"""Saving a stream of an engine, and going on with it in a slot of this or another engine."""

import dataclasses
import hashlib
import json

import jax
import numpy as np

from knotjax.drive import FRAME
from knotjax.edits import Edit
from knotjax.live.seat import Seat
from knotjax.live.slots import Slots
from knotjax.live.sound import LIMIT
from knotjax.models.speech import PIECE
from knotjax.streaming.snapshot import load_snapshot, save_snapshot

TEXT = 4096  # bytes that numbers may take
WORDS = ("emotion", "action", "ramp", "strength", "policy")  # of a change that is still to come


def identity(model, plan) -> dict:
    """What must be the same for a stream to go on."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(model.params):
        digest.update(np.asarray(leaf).tobytes())
    return {"weights": digest.hexdigest(), "plan": repr(plan)}


def _sizes(seat: Seat) -> dict[str, int]:
    """The most samples that each part may hold."""
    ahead = seat.timeline.needed(1) + seat.timeline.plan.blocks * seat.timeline.plan.chunk * 4 * FRAME
    return {"heard": ahead + 2 * PIECE * FRAME, "queue": LIMIT + ahead}


def _padded(array: np.ndarray, size: int) -> np.ndarray:
    return np.pad(array, (0, size - len(array)))


def _host(seat: Seat, size: int) -> dict[str, np.ndarray]:
    """All that a stream remembers outside the device, in arrays whose shapes never change."""
    heard, line = seat.timeline.save()
    rows, script = seat.timeline.script.save()
    waiting, kinds, queue = seat.sound.save()
    spoken, numbers = seat.save()
    change, picture = None, np.zeros((size, size, 3), np.uint8)
    if seat.change:
        change = {name: getattr(seat.change, name) for name in WORDS}
        change["picture"] = seat.change.picture is not None
        picture = seat.change.picture if change["picture"] else picture
    sizes = _sizes(seat)
    lengths = {"heard": len(heard), "queue": len(waiting), "spoken": len(spoken)}
    text = {"line": line, "script": script, "queue": queue, "seat": numbers, "change": change, "lengths": lengths}
    return {
        "heard": _padded(heard, sizes["heard"]),
        "spoken": _padded(spoken, sizes["heard"]),
        "queue": _padded(waiting, sizes["queue"]),
        "kinds": _padded(kinds, sizes["queue"]),
        "rows": rows,
        "picture": picture,
        "text": _padded(np.frombuffer(json.dumps(text).encode(), np.uint8), TEXT),
    }


def write(path, seat: Seat, one: Slots, about: dict) -> None:
    """Save a stream between two blocks; `one` is its slot."""
    save_snapshot(path, {"slot": one, "host": _host(seat, one.pixels.picture.shape[1])}, about)


def read(path, seat: Seat, like: Slots, about: dict) -> Slots:
    """Make a fresh seat the saved one; returns its slot.

    Args:
      like: a batch of one, or its shapes.

    Raises:
      InputError: the file cannot be read, or belongs to other weights or another plan.
    """
    wanted = {"slot": like, "host": _host(seat, like.pixels.picture.shape[1])}
    found = load_snapshot(path, wanted, about)
    host = {name: np.array(array) for name, array in found["host"].items()}
    text = json.loads(host["text"].tobytes().rstrip(b"\0"))
    lengths = text["lengths"]
    seat.timeline.restore(host["heard"][: lengths["heard"]], text["line"])
    seat.timeline.script.restore(host["rows"], text["script"])
    seat.sound.restore(host["queue"][: lengths["queue"]], host["kinds"][: lengths["queue"]], text["queue"])
    seat.restore(host["spoken"][: lengths["spoken"]], text["seat"])
    if change := text["change"]:
        picture = host["picture"] if change.pop("picture") else None
        seat.change = dataclasses.replace(Edit(0.0, **change), picture=picture)
    return found["slot"]
