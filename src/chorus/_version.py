"""The version, read by the build and by `chorus --version`."""

__version__ = "0.1.0"
