"""From the listener to the session."""
