"""Contexts, certificates, and TLS itself over memory buffers."""
