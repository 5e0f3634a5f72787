"""How a loaded ensemble computes: in which precision, and which of its networks run as one program.

`golden.check_golden` always compares one network after the other in float32; what is chosen here is compared with that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from consilia.bundle.golden import environment
from consilia.config.records import Probabilities
from consilia.decision.calibrators import AnyCalibrator, pool_folds
from consilia.errors import UserError
from consilia.files import sha256_of_json
from consilia.metrics.scores import softmax
from consilia.predict.networks import FoldEnsembles, exact_convolutions, run_in_turn
from consilia.predict.precision import CheckedPrecision
from consilia.predict.programs import (
    NOTHING,
    InTurn,
    Known,
    LoadedNetwork,
    Precision,
    Program,
    ShownImages,
    Together,
    kind_of,
)
from consilia.predict.timing import Timing, compare
from consilia.predict.timing_file import recall, remember, timings_file

Execution = Literal["auto", "sequential", "batched"]

AGREEMENT: Mapping[Precision, float] = {"float32": 1e-4, "bfloat16": 1e-2}  # of a network's probabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What the caller of `load` may choose."""

    precision: Precision = "float32"
    execution: Execution = "auto"

    def __post_init__(self) -> None:
        """Refuse what is neither.

        Raises:
            UserError: Names the choices.
        """
        for name, value, known in (
            ("precision", self.precision, ("float32", "bfloat16")),
            ("execution", self.execution, ("auto", "sequential", "batched")),
        ):
            if value not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, but got {value!r}.")


def start_running(
    networks: FoldEnsembles,
    calibrator: AnyCalibrator,
    images: npt.NDArray[np.uint8],
    running: Running,
    *,
    batch_size: int,
) -> tuple[FoldEnsembles, "EnsembleExecution"]:
    """Return the networks as they are to compute, checked on golden inputs, and what says how that is.

    Args:
        networks: As they were loaded.
        calibrator: Of the ensemble, to judge what becomes of its probabilities.
        images: Golden inputs, (n_images, size, size, channels).
        running: What was asked for.
        batch_size: Images at once, for which the first choice is made.

    Raises:
        UserError: What was asked for moves golden outputs too far, or cannot be computed.
    """
    golden = ShownImages(torch.from_numpy(images).to(networks.device))
    program = EnsembleExecution(networks.loaded, running, device=networks.device)
    with torch.inference_mode(), exact_convolutions(networks.device):
        program.prepare(golden, batch_size=batch_size)
        if running.precision == "float32":
            return networks.running(program), program
        n_members = networks.n_members

        def assess(logits: torch.Tensor) -> Probabilities:
            shaped = logits.float().cpu().numpy().reshape(n_members, -1, *logits.shape[1:])
            return pool_folds(calibrator, networks.pool(softmax(shaped)))

        checked = CheckedPrecision(program, run_in_turn(networks.loaded), assess, precision=running.precision)
        checked.check(golden, of="the golden inputs")
        return networks.running(checked), program


class EnsembleExecution:
    """The program of a whole ensemble: networks of one kind and image size together where that is faster.

    "auto" tries it on GPUs, once for each power of two of images at once, and remembers what was faster. On a CPU it
    never does: there running together was nearly always slower (docs/performance.md), and so equal input has equal
    output without a choice by the clock.
    """

    def __init__(
        self,
        networks: Sequence[LoadedNetwork],
        running: Running,
        *,
        device: torch.device,
        timings: Path | None = None,
        measure: Callable[[Callable[[], object], Callable[[], object]], Timing] = compare,
    ) -> None:
        """Take what to run; `timings` is the file of remembered timings, by default the user's."""
        self._device, self.running = device, running
        self._timings = timings or timings_file()
        self._measure = measure
        groups: dict[str, list[int]] = {}
        for position, network in enumerate(networks):
            groups.setdefault(kind_of(network), []).append(position)
        self._groups = [_Group.of(kind, positions, networks, running.precision) for kind, positions in groups.items()]

    def __call__(self, shown: ShownImages, known: Known = NOTHING) -> torch.Tensor:
        """Return the logits of all networks, float32 (n_networks, n_images, n_classes); see `Program`."""
        logits: dict[int, torch.Tensor] = {}
        for group in self._groups:
            program = self._choose(group, shown)
            own = {place: known[position] for place, position in enumerate(group.positions) if position in known}
            logits |= zip(group.positions, program(shown, own), strict=True)
        return torch.stack([logits[position].float() for position in range(len(logits))])

    @property
    def description(self) -> dict[str, str]:
        """How each kind of network runs, by its name and number."""
        return {group.name: self._describe(group) for group in self._groups}

    def prepare(self, golden: ShownImages, *, batch_size: int) -> None:
        """Build the programs that run networks together, compare them on golden inputs, and choose for `batch_size`.

        Raises:
            UserError: "batched" was asked for, and networks cannot be run together or say something else then.
        """
        if self.running.execution == "sequential" or (self.running.execution == "auto" and self._device.type == "cpu"):
            return
        for group in self._groups:
            if len(group.positions) > 1:
                self._try_together(group, golden)
        if self.running.execution == "auto":
            self(golden.repeated(batch_size))

    def _try_together(self, group: "_Group", golden: ShownImages) -> None:
        try:
            together = Together(group.networks, precision=self.running.precision)
            difference = _difference(group.in_turn, together, golden)
        except RuntimeError as error:  # an operation that cannot be batched, or too little memory
            group.refusal = f"they cannot be computed together: {str(error).splitlines()[0]}"
        else:
            if difference <= AGREEMENT[self.running.precision]:
                group.together = together
                return
            group.refusal = f"a probability of the golden inputs differs by {difference:.2g}"
        if self.running.execution == "batched":
            raise UserError(
                f"execution='batched' must run {group.name} together, but {group.refusal}. Load this ensemble with "
                "execution='sequential'."
            )

    def _choose(self, group: "_Group", shown: ShownImages) -> Program:
        if group.together is None:
            return group.in_turn
        if self.running.execution == "batched":
            return group.together
        size = 1 << max(0, len(shown) - 1).bit_length()  # so that a last, smaller batch rarely needs its own
        if size not in group.timings:
            group.timings[size] = self._time(group, shown.repeated(size))
        return group.together if group.timings[size].is_together_faster else group.in_turn

    def _time(self, group: "_Group", shown: ShownImages) -> Timing:
        """Return a remembered timing of so many images, or measure them."""
        key = sha256_of_json(
            [environment(self._device), self.running.precision, group.kind, len(group.positions), shown.shape]
        )
        if (known := recall(self._timings, key)) is not None:
            return known
        in_turn, together = group.in_turn, group.together
        assert together is not None, group.name

        def run(program: Program) -> None:
            torch.stack(program(shown.repeated(len(shown)))).cpu()  # waits for the device

        try:
            timing = self._measure(lambda: run(in_turn), lambda: run(together))
        except torch.OutOfMemoryError:
            timing = Timing(in_turn=0.0, together=None)  # not remembered: another process may have had the memory
        else:
            remember(self._timings, key, timing)
        return timing

    def _describe(self, group: "_Group") -> str:
        if group.together is None:
            return "one after the other" + (f", since {group.refusal}" if group.refusal else "")
        if self.running.execution == "batched":
            return "together"
        sizes = sorted(group.timings)
        together = [str(size) for size in sizes if group.timings[size].is_together_faster]
        in_turn = [str(size) for size in sizes if not group.timings[size].is_together_faster]
        parts = [("together", together), ("one after the other", in_turn)]
        return "; ".join(f"{how} at {', '.join(found)} images" for how, found in parts if found)


@dataclass(slots=True, kw_only=True)
class _Group:
    """Networks that may run as one program."""

    name: str
    kind: str  # of `kind_of`
    positions: list[int]  # among the ensemble's networks
    networks: list[LoadedNetwork]
    in_turn: InTurn
    together: Together | None = None
    refusal: str = ""  # why they do not run together
    timings: dict[int, Timing] = field(default_factory=dict)  # by number of images at once, a power of two

    @classmethod
    def of(cls, kind: str, positions: list[int], networks: Sequence[LoadedNetwork], precision: Precision) -> "_Group":
        chosen = [networks[position] for position in positions]
        timm, side = chosen[0].spec.architecture.timm, chosen[0].preprocessing.image_size
        return cls(
            name=f"{len(chosen)} {timm} at {side} px, networks {positions[0]} to {positions[-1]}",
            kind=kind,
            positions=positions,
            networks=chosen,
            in_turn=InTurn(chosen, precision=precision),
        )


def _difference(one: Program, other: Program, golden: ShownImages) -> float:
    """Return the largest difference of a network's probability; infinity where one is not finite."""
    probabilities = [torch.stack(program(golden)).double().softmax(dim=-1) for program in (one, other)]
    return float((probabilities[0] - probabilities[1]).abs().nan_to_num(nan=torch.inf).max())
