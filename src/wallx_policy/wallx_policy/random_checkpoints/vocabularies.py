"""Small byte-level tokenizers of our own, for random checkpoints: of words, and of FAST's codes."""

from __future__ import annotations

from itertools import product

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
)
_WALL = ("<|propri|>", "<|action|>")
_WORDS = (
    "system user assistant You are a helpful Observation Instruction Proprioception Predict the "
    "next action in robot front view wrist left right top pick up put place move red green blue "
    "cube block tray into on and to from of with it your hand arm gripper open close stack"
)
"""Words that become one token each; all other text is spelled in bytes."""
MIN_CODE = -354
"""What FAST adds to a character's number; released tokenizers have the same."""
CODE_SCALE = 10
"""What FAST multiplies coefficients by, likewise."""
LEAST_CODES = 512
"""Room for every byte and for the codes around zero, which take two."""
_CODES_AROUND_ZERO = 96


def build_tokenizer(*, wall_tokens: bool = True, action_tokens: int = 0) -> Tokenizer:
    """Return the tokenizer; the same on every machine.

    Args:
        wall_tokens: Whether it has the tokens of state and action; wall-oss-0.5 leaves them out.
        action_tokens: Of FAST.
    """
    vocabulary = {byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    for word in _WORDS.split():
        for spelled in (word, f"Ġ{word}"):  # how the byte level writes a space before a word
            for end in range(1, len(spelled)):
                _merge(vocabulary, merges, spelled[:end], spelled[end])
    tokenizer = _tokenizer(vocabulary, merges)
    special = (*_SPECIAL, *(_WALL if wall_tokens else ()))
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in special])
    tokenizer.add_tokens([f"<|action_token_{i}|>" for i in range(action_tokens)])
    return tokenizer


def build_action_tokenizer(size: int) -> Tokenizer:
    """Return a FAST tokenizer of ``size`` tokens: characters are codes less `MIN_CODE`.

    Codes near zero are one token each, as are runs and pairs of them.

    Raises:
        ValueError: for fewer than `LEAST_CODES` tokens.
    """
    if size < LEAST_CODES:
        raise ValueError(f"a FAST tokenizer needs {LEAST_CODES} tokens at least, not {size}")
    vocabulary = {byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    # From zero outwards: 0, 1, -1, 2, -2 ...
    codes = sorted(range(-_CODES_AROUND_ZERO, _CODES_AROUND_ZERO + 1), key=lambda c: (abs(c), -c))
    spelled = [byte_level.pre_tokenize_str(chr(code - MIN_CODE))[0][0] for code in codes]
    for first, second in spelled:
        _merge(vocabulary, merges, first, second)
    for count in (1, 2, 4, 8, 16):
        _merge(vocabulary, merges, spelled[0] * count, spelled[0] * count)
    for one, other in product(spelled, spelled):
        if len(vocabulary) == size:
            break
        _merge(vocabulary, merges, one, other)
    return _tokenizer(vocabulary, merges, use_regex=False)


def _merge(vocabulary: dict[str, int], merges: list[tuple[str, str]], one: str, other: str) -> None:
    if one + other not in vocabulary:
        vocabulary[one + other] = len(vocabulary)
        merges.append((one, other))


def _tokenizer(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], *, use_regex: bool = True
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
