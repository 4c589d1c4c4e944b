"""Real servers on free ports, each with its own folder; whoever starts one stops it."""
