"""Step 1: checks every record before anything is trained on it."""
