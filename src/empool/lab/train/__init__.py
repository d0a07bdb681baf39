"""One run: the loop, its batches, schedules and checkpoints."""
