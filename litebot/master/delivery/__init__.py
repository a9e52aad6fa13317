"""Delivers what must arrive: changes to schedulers, ends of builds to reporters, users' actions.

Buildbot passes these on in memory, after the commit of what they are about, so a master that dies
in between forgets them.  Here each delivery is recorded in the transaction of its effect.  The
parts are subclasses of Buildbot's database components (`components`), its message queue (`queue`)
and its manager of schedulers (`scheduler_manager`), and services that deliver what has not been
delivered (`changes`, `outbox`, `controls`).
"""
