"""The network behind flow and text: ids and patches in, embeddings and logits out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from so101_driver.errors import UserError
from torch import Tensor
from torch.nn.functional import linear

from wallx_policy.model.config import ModelConfig
from wallx_policy.model.decoder import Decoder, Rotary, rotary
from wallx_policy.model.positions import mrope_positions
from wallx_policy.model.prompt import SpecialIds
from wallx_policy.model.vision import VisionTower
from wallx_policy.model.weights import ModelWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptInputs:
    """One batch of prompts.

    Attributes:
        input_ids: [batch, tokens], padded on the left.
        attention_mask: [batch, tokens], 0 for padding.
        pixel_values: [patches, ...], f32; None without images.
        grid_thw: [images, 3]; None without images.
        state: [batch, columns], normalised, 0 where unknown; None where no token carries it.
        state_mask: [batch, columns], 1 where known; None with ``state``.
    """

    input_ids: Tensor
    attention_mask: Tensor
    pixel_values: Tensor | None = None
    grid_thw: Tensor | None = None
    state: Tensor | None = None
    state_mask: Tensor | None = None


@dataclass(frozen=True, slots=True)
class EmbeddedPrompt:
    """What the decoder takes of a batch, on the device of the network.

    Attributes:
        embeddings: [batch, tokens, H].
        positions: [3, batch, tokens] in time, height and width.
        keys: [batch, tokens], False for padding.
        padded: Whether anything is padding.
        propri: Embedding of the state [batch, H]; None without one.
    """

    embeddings: Tensor
    positions: Tensor
    keys: Tensor
    padded: bool
    propri: Tensor | None

    @property
    def next_position(self) -> Tensor:
        """Position of the token that follows each row, [batch]."""
        return self.positions.masked_fill(~self.keys, -1).amax(dim=(0, 2)) + 1


class Network:
    """Vision tower, embeddings, decoder and output layer; shared by flow and text."""

    def __init__(
        self, config: ModelConfig, weights: ModelWeights, special: SpecialIds, *, bf16_rotary: bool
    ) -> None:
        """Take the weights as they are; ``bf16_rotary`` rounds the frequencies as LeRobot does."""
        self.config = config
        self.special = special
        self.decoder = Decoder(config, weights)
        self.device = weights.embedding.device
        self.dtype = weights.embedding.dtype
        self._embedding = weights.embedding
        self._propri = weights.head.propri
        self._bf16_rotary = bf16_rotary
        self._vision = VisionTower(config.vision, weights.vision, bf16_rotary)

    @property
    def rows(self) -> int:
        """Number of embeddings, and of logits."""
        return self._embedding.shape[0]

    def see(self, pixel_values: Tensor, grid_thw: Tensor) -> Tensor:
        """Return one embedding for every 2×2 patches, [sum of patches / 4, H]."""
        return self._vision(pixel_values, grid_thw)

    def embed(self, inputs: PromptInputs, images: Tensor | None) -> EmbeddedPrompt:
        """Embed a batch, its image tokens replaced by ``images`` and its state token by the state.

        Raises:
            UserError: when the tokens do not fit the images, or a state token has no state.
        """
        ids, embeddings, propri = inputs.input_ids, self.token_embeddings(inputs.input_ids), None
        is_image, is_state = ids == self.special.image_pad, ids == self.special.propri
        wanted, given = int(is_image.sum()), 0 if images is None else len(images)
        if wanted != given:
            raise UserError(f"the prompt has {wanted} image tokens, the images make {given}")
        if images is not None:
            embeddings[is_image.to(self.device)] = images.to(self.dtype)
        if bool(is_state.any()):
            propri = self._embed_state(inputs)
            embeddings[is_state.to(self.device)] = propri
        keys = inputs.attention_mask.bool()
        return EmbeddedPrompt(
            embeddings=embeddings,
            positions=self._positions(inputs).to(self.device),
            keys=keys.to(self.device),
            padded=not bool(keys.all()),
            propri=propri,
        )

    def token_embeddings(self, ids: Tensor) -> Tensor:
        """Return a fresh tensor [..., H] of the embeddings of ids."""
        return self._embedding[ids.to(self.device)]

    def turn(self, positions: Tensor) -> Rotary:
        """Return the rotation for positions [3, batch, tokens]."""
        return rotary(self.config, positions.to(self.device), self.dtype, self._bf16_rotary)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return [..., rows], f32, of final hidden states [..., H]; the matrix is the embedding."""
        return linear(hidden.to(self.dtype), self._embedding).float()

    def _positions(self, inputs: PromptInputs) -> Tensor:
        merge = int(self.config.vision["spatial_merge_size"])
        grid = inputs.grid_thw
        merged = (torch.zeros(0, 2, dtype=torch.long) if grid is None else grid[:, 1:]) // merge
        return torch.from_numpy(
            mrope_positions(
                inputs.input_ids.cpu().numpy(),
                inputs.attention_mask.cpu().numpy(),
                merged.cpu().numpy(),
                self.special.image_pad,
            )
        )

    def _embed_state(self, inputs: PromptInputs) -> Tensor:
        if self._propri is None or inputs.state is None or inputs.state_mask is None:
            raise UserError("the prompt has a state token, but there is no state to embed")
        # The references round the state to the stream's dtype before the f32 projection.
        both = torch.cat((inputs.state, inputs.state_mask), dim=-1).to(self.device, self.dtype)
        return linear(both.float(), self._propri).to(self.dtype)
