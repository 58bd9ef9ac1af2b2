r"""Regular expressions of users, which must end: those of queries, and of a JSON Schema's `pattern`.

`re` holds the interpreter for a whole match, so that neither a limit nor a signal could reach it. RE2 never takes
long, but knows neither `(?!…)` nor `\1`, which names of assets need. `regex` knows all that MongoDB's PCRE has and
people write, lets other threads run while it matches, and stops by itself.
"""

from __future__ import annotations

import re
import warnings
from functools import lru_cache

from job_dispatch.messages import RequestError, printable

SECONDS_A_VALUE = 30.0
# MongoDB refuses longer ones as well: https://www.mongodb.com/docs/manual/reference/operator/query/regex/
_LENGTH_AT_MOST = 32_764
# What is repeated inside what is repeated: each level makes `regex` compile three times as long.
_REPEATS_INSIDE_REPEATS_AT_MOST = 5
_SHOWN = 60
_OPTIONS = frozenset("imsxu")
# To `regex` `a{e}` is approximate matching; to MongoDB, as to everybody else, it is what it looks like.
_LITERAL_BRACE = re.compile(r"(?<!\\)(?<!\\[pPNxgkuL])\{(?!\d*,?\d*\})")


class Pattern:
    """A regular expression, ready to be looked for.

    Parameters
    ----------
    text : str
    options : str
        MongoDB's `$options`: `i` no case, `m` a `^` and `$` at each line, `s` a dot for line breaks too,
        `x` blanks and comments; `u` changes nothing.

    Raises
    ------
    RequestError
        It is wrong, longer than MongoDB takes, or repeats inside repeats too often.
    """

    def __init__(self, text: str, options: str = "") -> None:
        import regex

        if unknown := set(options) - _OPTIONS:
            raise _wrong(text, f"{sorted(unknown)[0]!r} is none of the options i, m, s, x, u")
        if len(text) > _LENGTH_AT_MOST:
            raise _wrong(text, f"{len(text):,} characters; at most {_LENGTH_AT_MOST:,} are accepted")
        if "\0" in text:
            raise _wrong(text, "it holds a null character")
        if _repeats_inside_repeats(text) > _REPEATS_INSIDE_REPEATS_AT_MOST:
            raise _wrong(text, f"groups repeated inside more than {_REPEATS_INSIDE_REPEATS_AT_MOST} that are repeated")
        flags = {"i": regex.I, "m": regex.M, "s": regex.S, "x": regex.X, "u": regex.U}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what a later version may read otherwise
                self._compiled = regex.compile(
                    _LITERAL_BRACE.sub(r"\\{", text), sum(flags[option] for option in set(options))
                )
        except (regex.error, OverflowError, ValueError, RecursionError, MemoryError) as error:
            raise _wrong(text, str(error) or type(error).__name__) from None
        self.text = text

    def search(self, value: str) -> bool:
        """Tell whether it is found anywhere in a value.

        Raises
        ------
        RequestError
            That is not known after `SECONDS_A_VALUE`, or takes a gigabyte of memory.
        """
        try:
            return self._compiled.search(value, timeout=SECONDS_A_VALUE, concurrent=True) is not None
        except TimeoutError:
            reason = f"takes longer than {SECONDS_A_VALUE:g} s"
        except MemoryError:
            reason = "takes too much memory"
        raise RequestError(
            f"the regular expression {printable(self.text, _SHOWN)!r} {reason} on one value of "
            f"{len(value):,} characters; write it without a repeat of what is itself repeated, such as (a+)+",
            [f"value: {printable(value, _SHOWN)}"],
        )


@lru_cache(maxsize=1024)
def compiled(text: str, options: str = "") -> Pattern:
    """Return the pattern, the same object for the same text: for where each value would compile it anew."""
    return Pattern(text, options)


def _wrong(text: str, reason: str) -> RequestError:
    return RequestError(f"the regular expression {printable(text, _SHOWN)!r} is wrong: {reason}")


def _repeats_inside_repeats(text: str) -> int:
    """Return how deep repeated groups are nested; inside `[…]` a bracket counts too, which is only stricter."""
    # By open group: how deep the repeats inside it are nested.
    depths = [0]
    position = 0
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
        elif character == "(":
            depths.append(0)
        elif character == ")" and len(depths) > 1:
            inside = depths.pop()
            is_repeated = text[position + 1 : position + 20].lstrip()[:1] in tuple("*+?{")
            depths[-1] = max(depths[-1], inside + is_repeated)
        position += 1
    while len(depths) > 1:  # a bracket that is never closed is told by the compiler
        inside = depths.pop()
        depths[-1] = max(depths[-1], inside)
    return depths[0]
