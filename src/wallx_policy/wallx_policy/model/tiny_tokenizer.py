"""A small byte-level tokenizer of our own, for random checkpoints."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|propri|>",
    "<|action|>",
)
_WORDS = (
    "system user assistant You are a helpful Observation Instruction Proprioception Predict the "
    "next action in robot front view wrist left right top pick up put place move red green blue "
    "cube block tray into on and to from of with it your hand arm gripper open close stack"
)
"""Words that become one token each; all other text is spelled in bytes."""


def build_tokenizer() -> Tokenizer:
    """Return the tokenizer; the same on every machine."""
    vocabulary = {byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    for word in _WORDS.split():
        for spelled in (word, f"Ġ{word}"):  # how the byte level writes a space before a word
            for end in range(1, len(spelled)):
                if spelled[: end + 1] not in vocabulary:
                    vocabulary[spelled[: end + 1]] = len(vocabulary)
                    merges.append((spelled[:end], spelled[end]))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in _SPECIAL])
    return tokenizer
