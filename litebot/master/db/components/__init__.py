"""Buildbot's parts on the path of a build, in plain SQL and with events from what was written.

A module holds a subclass of a Buildbot connector component and of the data API's resource type
over it.  Their methods have Buildbot's names, arguments, models and exceptions; those that change
a row also return it as a model, which the event is then made of.  What is not overridden here runs
as in Buildbot.
"""
