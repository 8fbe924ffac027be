"""Prunes convolutional networks and writes the slimmer network as source code."""

__version__ = "0.1.0"
