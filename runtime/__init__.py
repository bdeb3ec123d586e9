"""The process and its files: paths, locks, signals, what a command prints."""
