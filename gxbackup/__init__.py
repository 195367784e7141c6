"""The domain of GX backup: what is captured, sealed, kept, proven and restored. Imports no Prefect."""

__version__ = "0.8.0"
