"""From returns to verdicts, and the simulation of their error rates."""
