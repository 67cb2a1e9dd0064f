"""The graph of the steps, and everything that compiles, runs, submits and schedules it."""
