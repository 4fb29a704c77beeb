"""Which name was surely meant, by one that nothing would ever look at."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

__all__ = ["meant"]

_LONG = 10
_LEAST = 0.88  # passes `to_state_dict`, not `state_dcit`


def meant(name: str, choices: Iterable[str]) -> str:
    """Return the one of ``choices`` that ``name`` is a misspelling of, or an empty string.

    Short names are near to many words that mean something else (``reopen``, ``rewrite``, ``clone``): of them
    only slips count, such as two letters swapped or one left out.
    """
    return next((word for word in choices if name != word and _is_near(name.lower(), word)), "")


def _is_near(name: str, word: str) -> bool:
    if name == f"{word}s":  # several of them
        return False
    if abs(len(name) - len(word)) > 1 + len(word) // _LONG:  # most names: at no cost
        return False
    return name == word or _is_slip(name, word) or _is_alike(name, word)


def _is_alike(name: str, word: str) -> bool:
    return len(word) >= _LONG and SequenceMatcher(None, word, name).ratio() >= _LEAST


def _is_slip(name: str, word: str) -> bool:
    if len(name) == len(word) - 1:
        return any(name == _without(word, i) for i in range(1, len(word)))
    if len(name) == len(word) + 1:
        return any(name[i] == name[i - 1] and word == _without(name, i) for i in range(1, len(name)))
    if len(name) != len(word):
        return False
    other = [i for i in range(len(word)) if name[i] != word[i]]
    if len(other) == 1:  # the last letter makes another word: observed
        return len(word) > 5 and other[0] < len(word) - 1
    return len(other) == 2 and other[1] == other[0] + 1 and sorted(name) == sorted(word)


def _without(text: str, i: int) -> str:
    return text[:i] + text[i + 1 :]
