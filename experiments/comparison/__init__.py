"""The nine-game comparison: two networks under the same algorithm, and a verdict per game."""
