"""GPT-2's reversible map between bytes and printable characters, and the splitting rules in use."""

from tokenizers import Regex, pre_tokenizers

# How text is cut before merging, by GGUF's name (llama.cpp: `llm_tokenizer_bpe`).
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def _byte_characters() -> dict[int, str]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in printable}
    rest = [byte for byte in range(256) if byte not in table]
    return table | {byte: chr(256 + i) for i, byte in enumerate(rest)}


BYTE_TO_CHARACTER = _byte_characters()
CHARACTER_TO_BYTE = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}


def text_to_bytes(text: str) -> bytes:
    """The bytes that a vocabulary entry stands for; text outside the map is taken literally."""
    try:
        return bytes(CHARACTER_TO_BYTE[c] for c in text)
    except KeyError:
        return text.encode("utf-8")


def splitter(name: str) -> pre_tokenizers.PreTokenizer | None:
    """The pre-tokenizer of a GGUF name; None if it is not known."""
    if name in ("gpt-2", "default"):
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "smollm":
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    pattern = {"qwen2": QWEN2, "llama-bpe": LLAMA3, "llama3": LLAMA3}.get(name)
    if pattern is None:
        return None
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
