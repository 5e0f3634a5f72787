"""Where networks start from, resolved: what a worker needs to know, whatever its environment says."""

from pathlib import Path
from typing import Literal

from consilia.config.frozen import Frozen


class WeightsSource(Frozen):
    """Random numbers, timm's hub, a folder of `<timm model name>.safetensors`, or one such file."""

    kind: Literal["none", "hub", "folder", "file"] = "none"
    path: Path | None = None  # absolute; of a folder or a file

    @property
    def is_pretrained(self) -> bool:
        """Whether networks start from weights that were trained before."""
        return self.kind != "none"


FROM_SCRATCH = WeightsSource()
HUB = WeightsSource(kind="hub")
