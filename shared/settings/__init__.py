"""Settings: models in `model`, reading and checking in `load`."""
