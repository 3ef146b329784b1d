"""Look at each piece of a deployment."""
