"""Moving everything from one database to another: copied, compared, and only then used."""
