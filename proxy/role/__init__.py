"""Say what a role may do beside reading. Pure."""
