"""The one place where papad's version is written, and where this papad is."""

__version__ = "0.3.0"

FOLDER = __file__.rsplit("/", 2)[0]
"""Where Python finds the package `papad`: for the PYTHONPATH of papad's programs, so that they are of the same version."""
