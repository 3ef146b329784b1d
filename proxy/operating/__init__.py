"""What the verbs of the command share."""
