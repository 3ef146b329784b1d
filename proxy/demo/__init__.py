"""A PostgreSQL of our own, with a sample shop."""
