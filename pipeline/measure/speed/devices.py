"""Say on which device the reference runs that a side is timed against: the side's own.

A file that runs on the CPU beside a GPU is no slower for it, nor is PyTorch on that CPU faster.
"""

from collections.abc import Collection, Iterable


def own_device(device: str, main: str, available: Collection[str]) -> str:
    """Return the device of the reference for what runs on ``device``; ``main`` where it has none.

    ``available`` are the devices that PyTorch may use here.
    """
    return device if device in available else main


def needed_devices(devices: Iterable[str], main: str, available: Collection[str]) -> list[str]:
    """Return the devices that a reference is needed on, ``main`` first."""
    return list(dict.fromkeys([main, *(own_device(one, main, available) for one in devices)]))
