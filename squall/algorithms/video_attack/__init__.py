"""Black-box attacks on video classifiers that distort cells of a grid over space and time, and what they cost in queries."""
