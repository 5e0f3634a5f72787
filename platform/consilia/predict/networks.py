"""The networks of an ensemble in memory: uint8 images to the probabilities of each fold ensemble."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from consilia.bundle.document import Member
from consilia.decision.combination import AnyCombination, combine
from consilia.errors import BundleError, PlanError, UserError
from consilia.metrics.scores import softmax
from consilia.predict.programs import NOTHING, InTurn, LoadedNetwork, Program, ShownImages
from consilia.train.device import MEMORY_FORMAT
from consilia.train.networks.factory import ModelSpec, build_model
from consilia.train.networks.features import count_features, logits_and_features

Place = tuple[int, int]  # of a network: its member, and its place among the member's networks; both from 0


class FoldEnsembles:
    """For each fold, the members' networks of that fold combined. Source: docs/methods.md section 5."""

    def __init__(
        self,
        members: Sequence[Member],
        files: Mapping[str, Path],
        *,
        combination: AnyCombination,
        device: torch.device,
    ) -> None:
        """Load every network.

        Args:
            members: Of the ensemble.
            files: Where each network's safetensors file lies, by its name in the members.
            combination: Of the members.
            device: That the networks compute on.

        Raises:
            BundleError: A file's tensors are not exactly those of its model.
        """
        self.device = device
        self.combination = combination
        self.loaded = tuple(
            LoadedNetwork(
                member=number, fold=fold, spec=member.model, preprocessing=network.preprocessing, module=module
            )
            for number, member in enumerate(members)
            for fold, (network, module) in enumerate(
                zip(member.networks, _load_member(member, files, device), strict=True)
            )
        )
        self._program: Program = InTurn(self.loaded)

    @property
    def n_members(self) -> int:
        """Members that are asked."""
        return len(self.combination.votes)

    def running(self, program: Program) -> "FoldEnsembles":
        """Return these networks, computing as `program` does; `each` stays as it is."""
        result = copy.copy(self)
        result._program = program
        return result

    def of_members(self, kept: Sequence[int], combination: AnyCombination) -> "FoldEnsembles":
        """Return the networks of some members, combined so; they compute in float32."""
        result = copy.copy(self)
        result.combination = combination
        result.loaded = tuple(
            replace(network, member=kept.index(network.member)) for network in self.loaded if network.member in kept
        )
        result._program = InTurn(result.loaded)
        return result

    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """Return q_f(x), (n_folds, n_images, n_classes), of images (n_images, size, size, channels)."""
        return self.pool(softmax(self.logits(pixels)))

    def pool(self, members: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return q_f(x), (n_folds, n_images, n_classes), of what each member says, (n_members, n_folds, ...)."""
        return combine(members, self.combination)

    def logits(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return what each network says, (n_members, n_folds, n_images, n_classes)."""
        with torch.inference_mode(), exact_convolutions(self.device):
            return self._by_member(self._program(self._show(pixels), NOTHING))

    def logits_and_features(
        self, pixels: npt.NDArray[np.uint8], *, of: Place
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return what `logits` returns, and the pooled features of one network, (n_images, n_features), in one pass.

        That network computes in float32 by itself, whatever the others do: its features are compared with those of the
        training.
        """
        position = [(network.member, network.fold) for network in self.loaded].index(of)
        network = self.loaded[position]
        with torch.inference_mode(), exact_convolutions(self.device):
            shown = self._show(pixels)
            said, pooled = logits_and_features(network.module, shown.inputs(network.preprocessing))
            features: npt.NDArray[np.float32] = pooled.cpu().numpy()
            return self._by_member(self._program(shown, {position: said})), features

    def count_features(self, of: Place) -> int:
        """Return how many features `logits_and_features` gives.

        Raises:
            PlanError: The network has none.
        """
        (module,) = (network.module for network in self.loaded if (network.member, network.fold) == of)
        return count_features(module)

    def _by_member(self, logits: torch.Tensor) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = logits.cpu().numpy()
        return found.reshape(self.n_members, -1, *found.shape[1:])

    def each(self, pixels: npt.NDArray[np.uint8]) -> Iterator["ShownNetwork"]:
        """Yield every network with what it is shown of images (n_images, size, size, channels)."""
        shown = self._show(pixels)
        for network in self.loaded:
            yield ShownNetwork(
                member=network.member,
                fold=network.fold,
                spec=network.spec,
                module=network.module,
                inputs=shown.inputs(network.preprocessing),
            )

    def _show(self, pixels: npt.NDArray[np.uint8]) -> ShownImages:
        return ShownImages(torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownNetwork:
    """One network, and a batch as it is shown to it."""

    member: int  # from 0, as in the bundle
    fold: int  # from 0
    spec: ModelSpec
    module: nn.Module
    inputs: torch.Tensor  # (n_images, channels, image_size, image_size)


def choose_device(name: str) -> torch.device:
    """Return the torch device called `name`; "auto" is the best one present.

    Raises:
        UserError: torch does not know the device, or cannot reach it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device must be one that torch can use here, but got {name!r}: {reason}") from error
    return device


def exact_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """Keep cuDNN from rounding to TF32 and from choosing algorithms by timing: equal input, equal output."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def _load_member(member: Member, files: Mapping[str, Path], device: torch.device) -> list[nn.Module]:
    """Return the member's networks, one a fold, in inference mode on `device`.

    The files are compared with the model before it takes any memory, and it is built once: folds are copies.
    """
    try:
        with torch.device("meta"):
            expected = build_model(member.model).state_dict()
        states = [_read_state(expected, files[network.file]) for network in member.networks]
        with torch.random.fork_rng(devices=[]):  # building draws random weights; loading must not move the seed
            template = build_model(member.model).eval()
    except PlanError as error:
        first = files[member.networks[0].file]
        raise BundleError(f"{first}: the model of trial {member.trial} cannot be built: {error}") from error
    modules = []
    for state in states:
        module = copy.deepcopy(template)
        module.load_state_dict(state, strict=True)
        modules.append(module.to(device, memory_format=MEMORY_FORMAT))  # type: ignore[call-overload]
    return modules


def _read_state(expected: Mapping[str, torch.Tensor], file: Path) -> dict[str, torch.Tensor]:
    """Read a network's tensors, which must have exactly the names, shapes and types of `expected`."""
    try:
        state = load_file(file, device="cpu")
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{file}: the network cannot be read: {error}") from error
    if state.keys() != expected.keys():
        name = min(state.keys() ^ expected.keys())
        which = "lacks" if name in expected else "has, and the model has not,"
        raise BundleError(f"{file} must hold exactly the model's tensors, but {which} {name!r}.")
    for name, tensor in expected.items():
        if (state[name].shape, state[name].dtype) != (tensor.shape, tensor.dtype):
            raise BundleError(
                f"{file}: {name!r} must be {tuple(tensor.shape)} {tensor.dtype}, but is "
                f"{tuple(state[name].shape)} {state[name].dtype}."
            )
    return state
