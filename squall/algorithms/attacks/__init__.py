"""Attacks on classifiers as plain torch: one attack a file, every call of the model through an `Oracle`."""
