"""From a change to the schedulers, and from one scheduler to the next, without loss or doubling.

Buildbot hands these over in memory, after the commit that they are about, so a master that dies in
between forgets them.  Here each hand-over is written down in the transaction of its effect: the
parts are subclasses of Buildbot's database components (`components`), its message queue (`queue`)
and its manager of schedulers (`scheduler_manager`), and a service that hands over what has not been
(`changes`).
"""
