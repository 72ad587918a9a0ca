"""YAML presets and the root of the composed configuration."""
