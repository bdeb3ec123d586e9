"""Networks that know, or do not know, where they look."""
