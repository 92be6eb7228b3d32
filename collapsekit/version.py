"""The version of this package. It lies here so that modules can import it without the package's public names."""

__version__ = "0.1.0"
