"""The experiments: each turns a claim of the CoordConv paper into runs and a report."""
