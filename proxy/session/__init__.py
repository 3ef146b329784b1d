"""One client's conversation, from its greeting to its end. Pure."""
