"""What learned attackers are compared with: one control a file, every one within the same budget of questions."""
