"""What the numbers say: statistics, findings, inference rules."""
