"""Proofs of identity, both ways, and who may come in by which. Pure."""
