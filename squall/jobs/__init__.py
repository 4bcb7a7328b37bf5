"""One file per thing a user runs. Each reads top to bottom like the paper it implements."""
