"""What the process says of itself: log, metrics, pages."""
