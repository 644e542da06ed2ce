"""What the server allows, in one place."""

import dataclasses
from pathlib import Path

TEXT_BYTES = 16_384  # of a control message; offers are long
MESSAGE_BYTES = 1 << 20  # of any message
CONNECTIONS = 64  # beside those of the sessions and of who waits for one; more are told 503
WAITING = 4  # clients in the queue for a session

HELLO_SECONDS = 5.0  # within which a client must say hello
SEND_SECONDS = 5.0  # that one send, or a client's word that it got a fragment, may take
PEER_SECONDS = 10.0  # from the start of a stream to its media connection
PING_SECONDS, PONG_SECONDS = 5.0, 8.0  # a client that vanished is found within their sum
IDLE_SECONDS = 120.0  # without a message other than `got`
END_SECONDS = 3.0  # for sessions to finish when the server ends
UNCONFIRMED = 6  # fragments sent that a client has not confirmed; until then the stream's own rule drops frames

MESSAGES_PER_SECOND, MESSAGES_AT_ONCE = 60.0, 240.0
PICTURE_COST = 60.0  # messages that a portrait or an offer counts for
MISTAKES = 20  # messages that cannot be used, after which a client is sent away

# Close codes; those from 4000 on are this server's own.
GONE, POLICY, FAULT, AGAIN = 1001, 1008, 1011, 1013
NO_HELLO, TOO_MANY_MISTAKES, IDLE, TIME_OVER, FLOOD = 4001, 4002, 4003, 4004, 4005


@dataclasses.dataclass(frozen=True)
class Settings:
    """What may differ from server to server."""

    sessions: int = 1  # at the same time
    token: str | None = None  # that clients must know
    record: Path | None = None  # folder for finished recordings
    max_seconds: float | None = None  # of a session
    idle_seconds: float = IDLE_SECONDS
    send_seconds: float = SEND_SECONDS
    hello_seconds: float = HELLO_SECONDS
