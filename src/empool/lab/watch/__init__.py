"""What is seen of runs while they go: progress and trackers."""
