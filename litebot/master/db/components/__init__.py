"""Components in plain SQL: Buildbot's database components that each build uses.

Each module has a subclass of one of Buildbot's connector components.  Its methods have Buildbot's
names, arguments, models and exceptions.  A method that changes a row also returns it as a model,
from which the data API (litebot.master.data) makes the event.  What is not overridden here runs as
in Buildbot.
"""
