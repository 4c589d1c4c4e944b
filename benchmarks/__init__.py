"""Measurements that anyone can repeat: ``python -m benchmarks``; README.md says what each is and how to read it."""
