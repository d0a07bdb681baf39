"""What the numbers say: statistics, findings, testing rules."""
