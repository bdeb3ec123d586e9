"""Model files: SB3 zips, written whole and read without trust."""
