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
from wallx_policy.model.vision import VisionPlan, VisionTower
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

    def compile(self, backend: str = "inductor") -> None:
        """Let torch compile the layers of vision tower and decoder; the first runs take a while."""
        self._vision.compile(backend)
        self.decoder.compile(backend)

    def see(self, pixel_values: Tensor, grid_thw: Tensor) -> Tensor:
        """Return one embedding for every 2×2 patches, [sum of patches / 4, H]."""
        return self._vision(pixel_values, grid_thw)

    def plan(self, grid_thw: Tensor) -> VisionPlan:
        """Return the plan for images of these sizes, [images, 3]."""
        return self._vision.plan(grid_thw)

    def see_planned(self, pixel_values: Tensor, plan: VisionPlan) -> Tensor:
        """Return what `see` does of images on the device that a plan was made for."""
        return self._vision.run(pixel_values, plan)

    def embed(self, inputs: PromptInputs, images: Tensor | None) -> EmbeddedPrompt:
        """Embed a batch, its image tokens replaced by ``images`` and its state token by the state.

        Raises:
            UserError: when the tokens do not fit the images, or a state token has no state.
        """
        propri = None
        self.check_images(inputs.input_ids, 0 if images is None else len(images))
        if self.has_state(inputs):
            propri = self.embed_state(inputs.state, inputs.state_mask)
        keys = inputs.attention_mask.bool()
        return EmbeddedPrompt(
            embeddings=self.placed(inputs.input_ids.to(self.device), images, propri),
            positions=self.positions(inputs).to(self.device),
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

    def positions(self, inputs: PromptInputs) -> Tensor:
        """Return the positions of a batch in time, height and width, [3, batch, tokens]."""
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

    def check_images(self, ids: Tensor, given: int) -> None:
        """Refuse ids that have not one image token for each of the images' embeddings."""
        wanted = int((ids == self.special.image_pad).sum())
        if wanted != given:
            raise UserError(f"the prompt has {wanted} image tokens, the images make {given}")

    def has_state(self, inputs: PromptInputs) -> bool:
        """Return whether a token stands for the state; UserError if it cannot be embedded."""
        if not bool((inputs.input_ids == self.special.propri).any()):
            return False
        if self._propri is None or inputs.state is None or inputs.state_mask is None:
            raise UserError("the prompt has a state token, but there is no state to embed")
        return True

    def embed_state(self, state: Tensor, known: Tensor) -> Tensor:
        """Return the embedding [batch, H] of a normalised state and its mask, [batch, columns]."""
        # The references round the state to the stream's dtype before the f32 projection.
        both = torch.cat((state, known), dim=-1).to(self.device, self.dtype)
        return linear(both.float(), self._propri).to(self.dtype)

    def placed(self, ids: Tensor, images: Tensor | None, propri: Tensor | None) -> Tensor:
        """Return embeddings [batch, tokens, H], with images and state in their tokens' places.

        Nothing here waits for the device, or depends on how many tokens there are of a kind.

        Args:
            ids: [batch, tokens], on the device.
            images: [all image tokens, H], or None.
            propri: [batch, H], or None.
        """
        embeddings = self._embedding[ids]
        if images is not None:
            is_image = ids == self.special.image_pad
            row = is_image.flatten().cumsum(0).sub_(1).clamp_(0, len(images) - 1).view_as(ids)
            embeddings = torch.where(is_image[..., None], images.to(self.dtype)[row], embeddings)
        if propri is not None:
            is_state = ids == self.special.propri
            embeddings = torch.where(is_state[..., None], propri[:, None], embeddings)
        return embeddings
