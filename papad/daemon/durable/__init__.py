"""What outlives a crash: the vault with its records, and what systemd keeps for us. Imports nothing else of the daemon."""
