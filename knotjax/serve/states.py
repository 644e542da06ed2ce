"""The life of one client, and what it may send in each part of it."""

import enum

from knotjax.serve.messages import Refusal


class State(enum.Enum):
    GREETING = "greeting"  # connected, has not said hello
    WAITING = "waiting"  # for a session to become free
    READY = "ready"  # has a session, has not started
    LIVE = "live"  # streams
    CLOSED = "closed"


NEXT = {
    State.GREETING: {State.WAITING, State.CLOSED},
    State.WAITING: {State.READY, State.CLOSED},
    State.READY: {State.LIVE, State.CLOSED},
    State.LIVE: {State.CLOSED},
    State.CLOSED: set(),
}
MAY_SEND = {
    State.GREETING: {"hello"},
    State.WAITING: {"bye"},
    State.READY: {"portrait", "picture data", "offer", "start", "bye"},
    State.LIVE: {"portrait", "picture data", "sound", "sound data", "end", "interrupt", "switch", "got", "bye"},
    State.CLOSED: set(),
}


class Life:
    """The state of one client; only the steps of `NEXT` are possible."""

    def __init__(self):
        self.state = State.GREETING

    def become(self, state: State) -> None:
        if state not in NEXT[self.state]:
            raise RuntimeError(f"a client that is {self.state.value} cannot become {state.value}")
        self.state = state

    def check(self, kind: str) -> None:
        """Refuse what may not be sent now.

        Raises:
          Refusal: a message or data of this kind is out of order.
        """
        if kind not in MAY_SEND[self.state]:
            raise Refusal("out_of_order", f"{kind} cannot be sent while {self.state.value}")
