"""The one name that ptychi imports from torchvision when it starts."""

from typing import Any


class GaussianBlur:
    """Refuses to be made: the constraint on the probe's support, which blurs, is not used in these benchmarks."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("GaussianBlur: found a stand-in for torchvision, expected that nothing blurs.")
