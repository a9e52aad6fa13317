"""Several masters on one Postgres database: who is alive, who has what, and who goes on with it."""
