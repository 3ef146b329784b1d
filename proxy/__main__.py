"""`python -m proxy` is the `sidecart` command."""

from proxy.cli import main

main(prog_name="sidecart")
