"""Settings: their models in `model`, what spans several keys in `check`, reading in `load`, every key as data in `reference`."""
