"""The procedural talking portraits as a tensorflow-datasets builder; see `builder`."""

from knotjax.data.knot_portraits.builder import KnotPortraits

__all__ = ["KnotPortraits"]
