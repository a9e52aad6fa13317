"""What a project of the page is made of: no Twisted, no Buildbot, no database."""
