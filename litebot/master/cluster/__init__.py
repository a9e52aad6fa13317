"""Message queues that reach further than one process."""

from __future__ import annotations

POSTGRES = {"class": "litebot.master.cluster.queue.PostgresMQ", "keys": {"debug"}}
