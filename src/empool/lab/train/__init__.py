"""One run: `loop.fit` trains a network on its batches, tests it, and leaves a result or a checkpoint to go on from."""
