"""Whatever comes in, papad survives it; `make fuzz` goes on for long."""
