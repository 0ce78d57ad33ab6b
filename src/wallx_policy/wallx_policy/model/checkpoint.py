"""Reads the tensors of every layout, strictly: each is expected, checked and put in its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from so101_driver.errors import UserError
from torch import Tensor

from wallx_policy.model.config_types import Layout, ModelConfig
from wallx_policy.model.random_tensors import RandomTensors
from wallx_policy.model.tensor_files import TensorFiles, opened
from wallx_policy.model.tensors import (
    EMBEDDING,
    HEAD,
    NORMALIZER,
    OUTPUT,
    STATE,
    ExpertNames,
    expert_names,
    final_norm_names,
    fused_as_in,
    fused_name,
    tensor_shapes,
)
from wallx_policy.model.vision import vision_shapes
from wallx_policy.model.weights import ExpertWeights, HeadWeights, ModelWeights, Normalizers

__all__ = ["ExpertWeights", "HeadWeights", "ModelWeights", "arranged", "read_weights"]


def read_weights(
    folder: Path,
    layout: Layout,
    config: ModelConfig,
    device: str,
    dtype: torch.dtype,
    *,
    columns: int | None = None,
    state_columns: int | None = None,
) -> ModelWeights:
    """Read a checkpoint's tensors.

    With ``bfloat16`` the decoder's norms and the action head stay f32, as in the references.

    Args:
        folder: The checkpoint.
        layout: Who wrote it.
        config: Shape of its network.
        device: Where the tensors go.
        dtype: Of the matrices.
        columns: Of the action; None takes the file's own number.
        state_columns: Of the state; None for as many as of the action.

    Raises:
        UserError: naming the file and every tensor that is missing, unexpected, of a wrong shape
            or type, or not finite.
    """
    with opened(folder) as files:
        return arranged(files, layout, config, device, dtype, columns, state_columns)


def arranged(
    files: TensorFiles | RandomTensors,
    layout: Layout,
    config: ModelConfig,
    device: str,
    dtype: torch.dtype,
    columns: int | None,
    state_columns: int | None,
) -> ModelWeights:
    """Check tensors, wherever they come from, and put each in its place; see `read_weights`."""
    reader = _Reader(files, layout, config, device, dtype, columns, state_columns)
    reader.check()
    weights = reader.read()
    if files.not_finite:
        listed = ", ".join(reader.plain(name) for name in files.not_finite)
        raise UserError(f"{files.path} has tensors that are not finite: {listed}")
    return weights


@dataclass(slots=True)
class _Reader:
    files: TensorFiles | RandomTensors
    layout: Layout
    config: ModelConfig
    device: str
    dtype: torch.dtype
    columns: int | None
    state_columns: int | None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    kept: dict[tuple[str, ...], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shapes = {self.plain(name): shape for name, shape in self.files.shapes().items()}

    @property
    def _prefix(self) -> str:
        return "model." if self.layout is Layout.LEROBOT else ""

    def plain(self, name: str) -> str:
        """Return a file's name of a tensor without the layout's prefix."""
        return name.removeprefix(self._prefix) if name.startswith(self._prefix) else f"({name})"

    @property
    def _embedding(self) -> str:
        """Save functions that drop one of two names for the same tensor may drop the usual one."""
        return OUTPUT if EMBEDDING not in self.shapes and OUTPUT in self.shapes else EMBEDDING

    def check(self) -> None:
        """Compare all names, shapes and types with what the configuration asks for."""
        expected, optional = self._expected(), self._optional()
        shaped = expected | {n: shape for n, shape in optional.items() if n in self.shapes}
        found = {
            "missing": [name for name in expected if name not in self.shapes],
            "unexpected": [
                name for name in self.shapes if name not in shaped and not self._may_be_extra(name)
            ],
            "of a wrong shape": [
                f"{name} is {list(self.shapes[name])}, not {list(shape)}"
                for name, shape in shaped.items()
                if name in self.shapes and self.shapes[name] != shape
            ],
            "of a type that is not implemented": [
                f"{self.plain(name)} is {dtype}" for name, dtype in self.files.dtypes().items()
            ],
        }
        parts = [f"{title}: {', '.join(names)}" for title, names in found.items() if names]
        path = self.files.path
        if parts:
            raise UserError(f"{path} does not match its configuration; {'; '.join(parts)}")
        both = OUTPUT in optional and OUTPUT in self.shapes
        if both and not self.files.equal(self._prefix + OUTPUT, self._prefix + EMBEDDING):
            raise UserError(
                f"{path}: {OUTPUT} differs from {EMBEDDING}; an output layer of its own is not "
                "implemented"
            )

    def _may_be_extra(self, name: str) -> bool:
        if name.endswith("rotary_emb.inv_freq"):
            return True
        return self.layout is not Layout.LEROBOT and NORMALIZER.fullmatch(name) is not None

    def _expected(self) -> dict[str, tuple[int, ...]]:
        # The rows are the file's own; tokenizers may have fewer tokens.
        rows = self.shapes.get(self._embedding, (0,))[0]
        columns = self.columns or self.shapes.get(f"{HEAD}action_proj_back.weight", (0,))[0]
        split = tensor_shapes(self.config, rows, columns, state_columns=self.state_columns)
        split[self._embedding] = split.pop(EMBEDDING)
        return fused_as_in(split, self.shapes)

    def _optional(self) -> dict[str, tuple[int, ...]]:
        embedding = self.shapes.get(EMBEDDING)
        optional = {} if embedding is None else {OUTPUT: embedding}
        if not self.config.state_token:
            wide = self.shapes.get(STATE, (0, 0))[-1]
            optional[STATE] = (self.config.hidden_size, wide - wide % 2)
        return optional

    def read(self) -> ModelWeights:
        """Read every tensor once, to its place and type."""
        c, f32 = self.config, torch.float32
        final_norms = [self._stacked((name,), f32) for name in final_norm_names(c.mixture)]
        layers = tuple(
            (
                self._expert(expert_names(c.mixture, layer, 0)),
                self._expert(expert_names(c.mixture, layer, 1)),
            )
            for layer in range(c.layers)
        )
        w1, w2, w3, back = (
            self._tensor(f"{HEAD}{name}.weight", f32)
            for name in ("w1", "w2", "w3", "action_proj_back")
        )
        propri = self._tensor(STATE, f32) if STATE in self.shapes else None
        return ModelWeights(
            embedding=self._tensor(self._embedding),
            layers=layers,
            final_norms=(final_norms[0], final_norms[1]),
            head=HeadWeights(w1=w1, w2=w2, w3=w3, back=back, propri=propri),
            vision={name: self._vision(name, s) for name, s in vision_shapes(c.vision).items()},
            normalizers=self._normalizers(),
        )

    def _expert(self, names: ExpertNames) -> ExpertWeights:
        f32 = torch.float32
        return ExpertWeights(
            input_norm=self._stacked((names.input_norm,), f32),
            qkv=self._stacked(names.qkv),
            qkv_bias=self._stacked(names.qkv_bias),
            out=self._stacked((names.out,)),
            post_norm=self._stacked((names.post_norm,), f32),
            gate_up=self._stacked(names.gate_up),
            down=self._stacked((names.down,)),
        )

    def _stacked(self, parts: tuple[str, ...], dtype: torch.dtype | None = None) -> Tensor:
        """Return tensors stacked along their first axis; experts that share one get the same."""
        if parts not in self.kept:
            fused = fused_name(parts[0])
            names = (fused,) if fused in self.shapes else parts
            heights = [self.shapes[name][0] for name in names]
            shape = (sum(heights), *self.shapes[names[0]][1:])
            whole = torch.empty(shape, dtype=dtype or self.dtype, device=self.device)
            for name, rows in zip(names, whole.split(heights), strict=True):
                self.files.fill(rows, self._prefix + name)
            self.kept[parts] = whole
        return self.kept[parts]

    def _vision(self, name: str, shape: tuple[int, ...]) -> Tensor:
        key = f"visual.{name}"
        if key in self.shapes:
            return self._tensor(key)
        half = torch.empty(shape, dtype=self.dtype, device=self.device)
        first = 0 if ".gate_proj." in key else shape[0]
        self.files.fill(half, self._prefix + fused_name(key), first)
        return half

    def _normalizers(self) -> Normalizers:
        found: Normalizers = {}
        for name in self.shapes:
            match = NORMALIZER.fullmatch(name)
            if match:
                tensor = self.files.read(self._prefix + name, torch.float64, "cpu")
                found.setdefault(match[3], {})[(match[1], match[2])] = tensor
        return found

    def _tensor(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        return self.files.read(self._prefix + name, dtype or self.dtype, self.device)
