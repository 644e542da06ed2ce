"""Live streams: sound in as it is spoken, frames out in time, several at once on one device."""

from knotjax.live.engine import Engine, Full
from knotjax.live.seat import Shown
from knotjax.live.session import LiveSession
from knotjax.live.sound import Overrun

__all__ = ["Engine", "Full", "LiveSession", "Overrun", "Shown"]
