"""A plugin of Buildbot's page, which shows litebot's pages within it.

It has the stylesheet and the script of these pages, too: each is one file for both.
"""

from __future__ import annotations

from buildbot.www.plugin import Application

ep = Application(__package__, "litebot's pages")
