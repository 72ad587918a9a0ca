"""The root of the composed configuration (``config.yaml``) and presets, one folder per kind."""
