"""From the name of a database to a connection to it, and to what is known of it."""
