"""Atari games, presented to an agent by a named protocol."""
