"""Copying or moving everything from one database to another, compared before it is used."""
