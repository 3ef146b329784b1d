"""What can be configured, read from config.yaml and the environment."""
