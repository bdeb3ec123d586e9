"""The report: a pure function of the run directories."""
