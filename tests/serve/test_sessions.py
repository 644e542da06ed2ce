import http.client
import io
import threading
import time

import av
import numpy as np

from knotjax.serve import limits
from knotjax.serve.app import Server, listen
from knotjax.serve.hub import Hub
from tests.serve.fake import Engine
from tests.serve.serving import Client, picture_file, serving, tone, wait


def pictures(client):
    """All frames that a client was sent, uint8 [n, H, W, 3]."""
    with av.open(io.BytesIO(client.head + b"".join(client.fragments))) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def sound(client):
    with av.open(io.BytesIO(client.head + b"".join(client.fragments))) as container:
        return np.concatenate([frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)])


def opening(frames):
    """How much of the mouth region is mouth, by frame."""
    region = frames[:, 36:56, 26:38].astype(int)
    return ((region[..., 0] < 110) & (region[..., 1] < 40) & (region[..., 2] < 40)).mean((1, 2))


def get(server, target):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request("GET", target)
    answer = connection.getresponse()
    status, body = answer.status, answer.read().decode()
    connection.close()
    return status, body


def test_a_whole_session(tmp_path):
    with serving() as server:
        with Client(server) as client:
            identity = client.until("ready")["id"]
            data = picture_file(tmp_path, colour=(60, 200, 220))
            client.tell("portrait", bytes=len(data))
            for start in range(0, len(data), 100):
                client.send(data[start : start + 100])
            client.until("portrait")
            client.tell("start", seed=7, emotion="happy")
            assert "avc1" in client.until("started")["mime"]
            client.more(2)
            session = server.engine.opened[-1]
            assert session.calls[0] == ("open", 7, "happy", None) and session._picture[0, 0].tolist() == [60, 200, 220]
            client.tell("sound", rate=48_000)
            for _ in range(4):
                client.send(tone(0.5, 48_000))
            client.tell("end")
            client.more(6)
            client.tell("switch", emotion="sad", action="nod", strength=0.5, ramp=1.0)
            client.tell("interrupt")
            client.until("report", cut=True)
            client.more(1)
            assert session.calls[1:] == [("end",), ("switch", False, "sad", "nod", 0.5, 1.0), ("interrupt",)]
            client.tell("bye")
            assert client.closed() == 1000 and client.errors == []
        assert wait(lambda: session.closed and not server.hub.busy) < 2.0
        frames, heard = pictures(client), sound(client)
        assert len(frames) == 9 + 12 * (len(client.fragments) - 1)
        assert abs(len(heard) / 48_000 - len(frames) / 25) < 0.02
        open_mouth = opening(frames)
        loud = np.array([np.abs(part).mean() for part in np.array_split(heard, len(frames))])
        assert np.corrcoef(open_mouth, loud)[0, 1] > 0.9, "the mouth follows the sound that comes with it"
        reports = [message for message in client.told if message["type"] == "report"]
        assert [report["fragment"] for report in reports] == list(range(len(reports)))
        assert all(report["unconfirmed"] <= limits.UNCONFIRMED for report in reports)
        assert max(report["stream"]["queue_seconds"] for report in reports) > 0 and reports[-1]["round_ms"] > 0
        assert len(identity) == 36


def test_another_portrait_in_the_middle(tmp_path):
    with serving() as server, Client(server) as client:
        client.begin()
        data = picture_file(tmp_path, colour=(250, 10, 250), kind="JPEG")
        client.tell("portrait", bytes=len(data))
        client.send(data)
        client.until("portrait")
        assert ("switch", True, None, None, None, 0.0) in server.engine.opened[-1].calls
        client.more(3)
        first, last = pictures(client)[[0, -1], 30, 4].astype(int)
        assert last[0] - last[1] > 60 and abs(first[0] - first[1]) < 30


def test_places_are_given_in_order_and_the_rest_is_told_to_come_later():
    with serving(sessions=1) as server:
        first = Client(server).begin()
        queue = []
        for position in range(1, limits.WAITING + 1):
            queue.append(Client(server))
            assert queue[-1].until("queue")["position"] == position
        with Client(server) as late:
            assert late.closed() == limits.AGAIN and late.errors == ["full"]
        assert get(server, "/metrics")[1].count("knotjax_waiting 4\n") == 1
        queue[1].vanish()
        queue[2].until("queue", position=2)
        began = time.monotonic()
        first.vanish()
        queue[0].until("ready", 5.0)
        took = time.monotonic() - began
        print(f"the place was free {took:.2f} s after its client vanished")
        assert took < 2.0
        queue[3].until("queue", position=2)
        for client in (first, *queue):
            client.__exit__()
        wait(lambda: not server.hub.busy and not server.hub.waiting and not server.hub.clients)


def test_who_is_idle_frees_the_place():
    with serving(idle_seconds=0.6) as server:
        with Client(server) as client:
            client.until("ready")
            assert client.closed() == limits.IDLE
        with Client(server) as client:
            client.begin()
            assert client.closed() == limits.IDLE, "confirming alone is no life"
        with Client(server) as client:
            client.begin()
            client.tell("sound", rate=16_000)
            for _ in range(15):
                client.send(tone(0.05))
                client.hear(0.1)
                time.sleep(0.05)
            assert client.code is None


def test_a_session_may_have_a_longest_time():
    with serving(max_seconds=0.7) as server, Client(server) as client:
        client.begin()
        began = time.monotonic()
        assert client.closed() == limits.TIME_OVER and time.monotonic() - began < 3.0


def test_a_fault_of_the_model_ends_one_session_only():
    with serving(Engine(speed=8.0, fault=3)) as server:
        with Client(server) as client:
            client.begin()
            assert client.closed() == limits.FAULT and client.errors == ["fault"]
        server.engine.fault = None
        with Client(server) as client:
            client.begin().more(4)


def test_health_before_and_after_the_model_is_there():
    class Slow(Engine):
        def open(self, *arguments, **options):
            time.sleep(0.5)
            return super().open(*arguments, **options)

    with serving(Slow()) as server:
        assert get(server, "/healthz") == (200, "ok\n") and get(server, "/readyz") == (200, "ready\n")
        server.hub._ready.clear()
        status, body = get(server, "/readyz")
        assert (status, body) == (503, "the model starts\n")
        with Client(server) as client:
            assert client.until("queue")["position"] == 0
            server.hub.loop.call_soon_threadsafe(server.hub._ready.set)
            client.until("ready")


def test_a_model_that_does_not_start_ends_the_server():
    hub = Hub(_broken, np.zeros((64, 64, 3), np.uint8), "knot_forcing", limits.Settings())
    server = Server(hub)
    listener = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    thread.join(10)
    assert not thread.is_alive() and str(hub.failure) == "no such weights"


def _broken():
    raise RuntimeError("no such weights")


def test_metrics_name_what_matters():
    with serving(sessions=2) as server, Client(server) as client:
        client.begin().more(3)
        status, body = get(server, "/metrics")
        figures = dict(line.rsplit(" ", 1) for line in body.splitlines())
        assert status == 200 and figures["knotjax_sessions"] == "1" and figures["knotjax_sessions_limit"] == "2"
        assert float(figures["knotjax_resident_bytes"]) > 1e7
        assert float(figures['knotjax_block_milliseconds{quantile="0.5"}']) == 1.5
        assert float(figures['knotjax_events_total{event="fragments"}']) >= 4
        for name in ("knotjax_deadline_misses_total", "knotjax_frames_left_out_total", "knotjax_sound_queue_seconds"):
            assert name in figures


def test_the_server_ends_sessions_in_good_order():
    with serving(sessions=1) as server:
        live, waiting = Client(server).begin(), Client(server)
        waiting.until("queue")
        began = time.monotonic()
        server.should_exit = True
        assert waiting.closed() == limits.GONE and live.closed() == limits.GONE
        assert time.monotonic() - began < 5.0
        live.__exit__()
        waiting.__exit__()
    assert server.engine.closed
