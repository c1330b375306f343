"""The layer that reads and writes: files, git, the checkout, the ledger, the units' data files."""
