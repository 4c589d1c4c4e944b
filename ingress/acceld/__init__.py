"""What clients made for acceld (``accelctl`` and scripts) find: its paths, its answers, its words."""
