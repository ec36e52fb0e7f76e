"""Words of a text in any script.

Scripts that are written without spaces have no words that a pattern could find; each of their letters counts as one.
"""

import re

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Thai, Lao, Burmese, Khmer, kana and Chinese characters, as the inside of a regular expression's class."""
_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")


def split_words(text: str) -> list[str]:
    """Words without the spaces and signs between them: runs of letters and digits, or single letters."""
    return _WORD.findall(text)
