"""Say what a text of SQL is. Pure: no socket, no clock, no file but the project's own data."""
