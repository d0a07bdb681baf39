"""The experiments: train one network with each pooling and several seeds, and report."""
