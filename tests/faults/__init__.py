"""The fault harness: real servers, real processes, real images, injected faults, and an account of every accepted event.

``test_short_run.py`` is the run that CI makes; ``python -m tests.faults`` (``make chaos``) the long one.
"""
