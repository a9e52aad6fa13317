"""Copies or moves all rows from one database to another, and compares them before they are used."""
