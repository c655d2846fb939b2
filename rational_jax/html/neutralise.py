"""Text as it is, not as it wants to be shown: characters that steer a display are replaced by visible marks."""

import re

# Bidirectional controls can show a refusal where the text complies; zero-width characters hide what they split.
_NAMES = {
    0x00: "NUL",
    0x07: "BEL",
    0x08: "BS",
    0x0B: "VT",
    0x0C: "FF",
    0x0D: "CR",
    0x1B: "ESC",
    0x7F: "DEL",
    0x9B: "CSI",
    0x00AD: "SHY",
    0x061C: "ALM",
    0x180E: "MVS",
    0x200B: "ZWSP",
    0x200C: "ZWNJ",
    0x200D: "ZWJ",
    0x200E: "LRM",
    0x200F: "RLM",
    0x2028: "LSEP",
    0x2029: "PSEP",
    0x202A: "LRE",
    0x202B: "RLE",
    0x202C: "PDF",
    0x202D: "LRO",
    0x202E: "RLO",
    0x2060: "WJ",
    0x2061: "APPLY",
    0x2062: "TIMES",
    0x2063: "SEP",
    0x2064: "PLUS",
    0x2066: "LRI",
    0x2067: "RLI",
    0x2068: "FSI",
    0x2069: "PDI",
    0xFEFF: "BOM",
    0xFFF9: "IAA",
    0xFFFA: "IAS",
    0xFFFB: "IAT",
}
_STEERING = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e0fff]"
)


def _mark(match: re.Match[str]) -> str:
    code = ord(match.group())
    if 0xD800 <= code <= 0xDFFF:
        return "\ufffd"
    # Zero-width joiners hold emoji and some scripts together, but what cannot be seen is not worth that here.
    return f"\u27e8{_NAMES.get(code, f'U+{code:04X}')}\u27e9"


def neutralise(text: str) -> str:
    """`text` with control, bidi, zero-width and tag characters and lone surrogates as visible marks.

    Line feeds and tabs stay, and a carriage return before a line feed goes. The result has no character that changes
    the order, direction or colour of what stands around it, and it can be encoded as UTF-8.
    """
    return _STEERING.sub(_mark, text.replace("\r\n", "\n"))
