"""Typed settings, their defaults, and the run directory they are saved in."""
