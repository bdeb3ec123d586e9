"""Networks to compare: each a features extractor of Stable-Baselines3 in a file of its own."""
