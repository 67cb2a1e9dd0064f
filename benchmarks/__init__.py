"""How fast it is, in figures that can be compared: speed as ratios, and memory."""
