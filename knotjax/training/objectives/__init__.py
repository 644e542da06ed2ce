"""Training objectives: each a pure function of parameters, batch and key."""

from knotjax.training.objectives.flow import FlowConfig, stream_flow

__all__ = ["FlowConfig", "stream_flow"]
