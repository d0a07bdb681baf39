"""What a study is made of: one run's configuration, its networks, its folder, and the paper's tables."""
