"""Whatever bytes come, the readers of layers answer with entries or a classified error, in bounded pieces.

``test_fuzz.py`` is the short run that CI makes; ``python -m tests.fuzz --seconds 600`` goes on for as long as it is told.
``corpus/`` holds the seeds: sound inputs, hostile ones, and every input that once broke something.
"""
