"""One run's configuration, and the studies that the paper describes."""
