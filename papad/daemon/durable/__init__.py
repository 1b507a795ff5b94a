"""What outlives a crash: the vault and the FD store. Imports nothing else of the daemon."""
