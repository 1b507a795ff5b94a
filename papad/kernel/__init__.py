"""The daemon. Nothing outside this package imports it."""
