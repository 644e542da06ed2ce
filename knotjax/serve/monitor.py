"""What `/metrics` tells, as Prometheus text."""

import os
import resource
import sys
from pathlib import Path

import numpy as np

from knotjax.serve.hub import Hub


def resident_bytes() -> int:
    """Main memory that the process holds now; where the system does not tell, the most that it held."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def metrics(hub: Hub) -> str:
    """All figures, one to a line."""
    streams = [client.last for client in hub.clients if client.last is not None]
    figures = {
        "ready": int(hub.ready),
        "sessions": hub.busy,
        "sessions_limit": hub.settings.sessions,
        "clients": len(hub.clients),
        "waiting": hub.waiting,
        "resident_bytes": resident_bytes(),
        "deadline_misses_total": hub.past["misses"] + sum(s.stream.get("misses", 0) for s in streams),
        "frames_left_out_total": hub.past["left_out"] + sum(s.left_out for s in streams),
        "sound_queue_seconds": sum(s.stream.get("queue_seconds", 0.0) for s in streams),
    }
    lines = [f"knotjax_{name} {value:.10g}" for name, value in figures.items()]
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        if times := [s.stream[f"block_ms_{name}"] for s in streams if f"block_ms_{name}" in s.stream]:
            lines.append(f'knotjax_block_milliseconds{{quantile="{share}"}} {max(times):.6g}')
        if hub.fragment_ms:
            packing = float(np.quantile(hub.fragment_ms, share))
            lines.append(f'knotjax_packing_milliseconds{{quantile="{share}"}} {packing:.6g}')
    lines += [f'knotjax_events_total{{event="{name}"}} {count}' for name, count in sorted(hub.counts.items())]
    return "\n".join(lines) + "\n"
