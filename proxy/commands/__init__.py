"""The verbs of the `sidecart` command, one file each."""
