"""Store of checkpoint versions on disk: saved whole or not at all, never changed, loaded strictly."""

from pathlib import Path

DEFAULT_STORE = Path(__file__).parent / "checkpoints"
"""The store inside the package, which holds the embedded checkpoint."""
