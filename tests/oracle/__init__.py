"""Compare what the resolver says that names mean with what PostgreSQL itself resolves.

The server prints the tree of its parse analysis (`debug_print_parse`) as a notice at each Parse: nothing runs, and the
tree says by OID which functions, operators, casts, types and relations it has picked. `statements` make texts, `server`
has them analysed, `nodes` reads the trees, `picked` takes the OIDs out of them, and `compare` looks each of them up in
the resolver's sets. `python -m tests.oracle` does it all, and prints what is amiss grouped by cause.
"""
