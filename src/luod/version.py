"""The version of luod, read by the build and by the three programs."""

__version__ = "0.1.0"
