"""``ics dead-letters``: what failed for good, and what to do about it."""
