"""Where and when the runs of a study are done."""
