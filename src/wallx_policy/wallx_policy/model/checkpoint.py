"""Reads ``model.safetensors`` of either layout, strictly: every tensor is expected and checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from so101_driver.errors import UserError
from torch import Tensor

from wallx_policy.model.config import Layout, ModelConfig
from wallx_policy.model.tensors import (
    EMBEDDING,
    NORMALIZER,
    fused_as_in,
    fused_name,
    tensor_shapes,
)
from wallx_policy.model.vision import vision_shapes
from wallx_policy.model.weights import ExpertWeights, HeadWeights, ModelWeights, Normalizers

FILE_NAME = "model.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def read_weights(
    folder: Path, layout: Layout, config: ModelConfig, device: str, dtype: torch.dtype
) -> ModelWeights:
    """Read a checkpoint's tensors.

    With ``bfloat16`` the decoder's norms and the action head stay f32, as in the references.

    Raises:
        UserError: naming the file and every tensor that is missing, unexpected, of a wrong shape
            or not finite.
    """
    path = folder / FILE_NAME
    with _opened(folder, path) as file:
        reader = _Reader(path, file, layout, config, device, dtype)
        reader.check()
        weights = reader.read()
    if reader.not_finite:
        raise UserError(f"{path} has tensors that are not finite: {', '.join(reader.not_finite)}")
    return weights


@contextmanager
def _opened(folder: Path, path: Path) -> Iterator[safe_open]:
    if not path.is_file():
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
        hint = f"; {pickles[0]} is a pickle, which is never read: convert it" if pickles else ""
        raise UserError(f"{path} is missing{hint}")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read, copy it again: {error}") from error


@dataclass(slots=True)
class _Reader:
    path: Path
    file: safe_open
    layout: Layout
    config: ModelConfig
    device: str
    dtype: torch.dtype
    not_finite: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        prefix = self._prefix
        for key in self.file.keys():  # noqa: SIM118 -- safe_open is no mapping
            name = key.removeprefix(prefix) if key.startswith(prefix) else f"({key})"
            self.shapes[name] = tuple(self.file.get_slice(key).get_shape())

    @property
    def _prefix(self) -> str:
        return "model." if self.layout is Layout.LEROBOT else ""

    @property
    def _embedding(self) -> str:
        """LeRobot's save functions keep the tied matrix under the other of its two names."""
        if self.layout is Layout.LEROBOT and EMBEDDING not in self.shapes:
            return "lm_head.weight"
        return EMBEDDING

    def check(self) -> None:
        """Compare all names and shapes with what the configuration asks for."""
        expected = self._expected()
        missing = [name for name in expected if name not in self.shapes]
        shaped = [
            f"{name} is {list(self.shapes[name])}, not {list(shape)}"
            for name, shape in expected.items()
            if name in self.shapes and self.shapes[name] != shape
        ]
        unexpected = [
            name for name in self.shapes if name not in expected and not self._may_be_extra(name)
        ]
        parts = [
            f"{title}: {', '.join(names)}"
            for title, names in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of a wrong shape", shaped),
            )
            if names
        ]
        if parts:
            raise UserError(f"{self.path} does not match its configuration; {'; '.join(parts)}")

    def _may_be_extra(self, name: str) -> bool:
        if name == "lm_head.weight" or name.endswith("rotary_emb.inv_freq"):
            return True
        return self.layout is Layout.ORIGINAL and NORMALIZER.fullmatch(name) is not None

    def _expected(self) -> dict[str, tuple[int, ...]]:
        # The rows are the file's own; tokenizers may have fewer tokens.
        rows = self.shapes.get(self._embedding, (0,))[0]
        columns = sum(self.config.dof.values())
        if self.layout is Layout.LEROBOT:  # has a width of its own, whatever its base calls it
            columns = self.shapes.get("action_preprocessor.action_proj_back.weight", (0,))[0]
        split = tensor_shapes(self.config, rows, columns)
        split[self._embedding] = split.pop(EMBEDDING)
        return fused_as_in(split, self.shapes)

    def read(self) -> ModelWeights:
        """Read every tensor once, to its place and type."""
        c, f32 = self.config, torch.float32
        head, final_norm = "action_preprocessor.", self._tensor("model.norm.weight", f32)
        return ModelWeights(
            embedding=self._tensor(self._embedding),
            layers=tuple(self._layer(f"model.layers.{n}.") for n in range(c.layers)),
            final_norms=(final_norm, final_norm),
            head=HeadWeights(
                *(
                    self._tensor(f"{head}{name}.weight", f32)
                    for name in ("w1", "w2", "w3", "action_proj_back", "propri_proj")
                )
            ),
            vision={name: self._vision(name) for name in vision_shapes(c.vision)},
            normalizers=self._normalizers(),
        )

    def _layer(self, layer: str) -> tuple[ExpertWeights, ExpertWeights]:
        attention, f32 = f"{layer}self_attn.", torch.float32

        def qkv(kind: str) -> Tensor:
            return self._joined([f"{attention}{x}_proj.{kind}" for x in "qkv"])

        shared = {
            "input_norm": self._tensor(f"{layer}input_layernorm.weight", f32),
            "qkv": qkv("weight"),
            "qkv_bias": qkv("bias"),
            "out": self._tensor(f"{attention}o_proj.weight"),
            "post_norm": self._tensor(f"{layer}post_attention_layernorm.weight", f32),
        }

        def expert(e: int) -> ExpertWeights:
            name = f"{layer}moe.experts.{e}."
            gate_up = self._joined([f"{name}{x}_proj.weight" for x in ("gate", "up")])
            return ExpertWeights(
                **shared, gate_up=gate_up, down=self._tensor(f"{name}down_proj.weight")
            )

        return expert(0), expert(1)

    def _joined(self, parts: list[str]) -> Tensor:
        fused = fused_name(parts[0])
        if fused in self.shapes:
            return self._tensor(fused)
        return torch.cat([self._tensor(part) for part in parts])

    def _vision(self, name: str) -> Tensor:
        key = f"visual.{name}"
        if key in self.shapes:
            return self._tensor(key)
        both = self._tensor(fused_name(key))
        # Copies, so that neither half keeps the fused tensor alive.
        return both.chunk(2)[0 if ".gate_proj." in key else 1].clone()

    def _normalizers(self) -> Normalizers:
        found: Normalizers = {}
        for name in self.shapes:
            match = NORMALIZER.fullmatch(name)
            if match:
                tensor = self._tensor(name, torch.float64, "cpu")
                found.setdefault(match[3], {})[(match[1], match[2])] = tensor
        return found

    def _tensor(
        self, name: str, dtype: torch.dtype | None = None, device: str | None = None
    ) -> Tensor:
        tensor = self.file.get_tensor(self._prefix + name)
        if not bool(torch.isfinite(tensor).all()):
            self.not_finite.append(name)
        return tensor.to(device or self.device, dtype or self.dtype)
