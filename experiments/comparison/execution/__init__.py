"""Carrying out the runs of a comparison: processes, a Ray cluster, the live table."""
