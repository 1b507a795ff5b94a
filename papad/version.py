"""The version of papad, defined only here, and the folder that this papad runs from."""

__version__ = "0.3.0"

FOLDER = __file__.rsplit("/", 2)[0]
"""The folder that contains the package `papad`.

It goes into the PYTHONPATH of the programs that papad starts, so that they run the same version.
"""
