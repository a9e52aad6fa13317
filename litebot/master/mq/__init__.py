"""Message queues that reach further than one process."""

from __future__ import annotations

POSTGRES = {"class": "litebot.master.mq.postgres.PostgresMQ", "keys": {"debug"}}
