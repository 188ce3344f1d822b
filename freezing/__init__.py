"""What PyInstaller is told when it freezes an app that imports this package; it finds this folder by an entry point."""

from pathlib import Path


def hook_folders() -> list[str]:
    """Where the hooks lie."""
    return [str(Path(__file__).parent)]
