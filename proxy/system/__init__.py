"""What the operating system and the event loop give, and under which care."""
