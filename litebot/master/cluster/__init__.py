"""The cluster: several masters on one Postgres database, which take over from one another."""
