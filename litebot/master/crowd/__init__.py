"""Crowds of visitors are answered by a process of their own, so that builds keep the processor.

What is asked of the REST API costs about a millisecond of the reactor, and builds beside it find
their data gone from the processor's caches.  So where many ask (crawlers, most often) the master
starts its *desk*: a process that reads the state file and has Buildbot's REST API, as the master
has it.  The `gate` accepts connections and passes on to the desk those that bring a plain GET; the
master answers all else.  When the crowd has gone, so does the desk.
"""
