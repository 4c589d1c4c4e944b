"""Real images, and what compares them on disk."""
