"""The ledger of a run: its rows, its metadata, and every query on them."""
