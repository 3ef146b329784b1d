"""Prove what in a database only reads, from its own catalogues. Pure."""
