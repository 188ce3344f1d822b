"""What methods, filters, tests and operators of a chat template cost, and which there are: what is not listed is refused.

A cost takes the meter and the arguments, charges them, and returns the positional arguments to call with.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import prod
from typing import Any

from jinja2 import Undefined
from markupsafe import Markup

from ...graphs.errors import ModelFolderError
from .template_meter import ELEMENT, Meter, held

Cost = Callable[..., tuple[Any, ...]]
_BITS, _DIGITS = 4096, 400
"""Most bits of whole numbers that are computed with; most digits to round to."""
_SIZED = (list, tuple, dict, str, range)
_WIDE = re.compile(r"\d{5}|\*")
_ESCAPED = 6
"""Times that a character grows when it is escaped for HTML, at most."""


def free(_: Meter, *args: Any, **__: Any) -> tuple[Any, ...]:
    """Costs nothing beside the node itself."""
    return args


def linear(meter: Meter, *args: Any, **options: Any) -> tuple[Any, ...]:
    """Reads its arguments a few times."""
    meter.charge(sum(map(meter.text_size, (*args, *options.values()))))
    return args


def product(meter: Meter, *args: Any, **options: Any) -> tuple[Any, ...]:
    """Reads one argument for each character of another, or as often as a number says."""
    meter.charge(prod(1 + _extent(meter, value) for value in (*args, *options.values())))
    return args


def wide(meter: Meter, *args: Any, **options: Any) -> tuple[Any, ...]:
    """Makes as much as its arguments and numbers add up to."""
    meter.charge(sum(_extent(meter, value) for value in (*args, *options.values())))
    return args


def pieces(meter: Meter, text: Any, *args: Any, **options: Any) -> tuple[Any, ...]:
    """Cuts a text up, every other character at most."""
    linear(meter, *args, **options)
    meter.charge(meter.text_size(text) * ELEMENT // 2)
    return text, *args


def pieces_from_behind(meter: Meter, text: Any, *args: Any, **options: Any) -> tuple[Any, ...]:
    """The same where the search for a separator is the library's slow one."""
    product(meter, text, *args, **options)
    return pieces(meter, text, *args, **options)


def shallow(meter: Meter, value: Any, *args: Any, **_: Any) -> tuple[Any, ...]:
    """Copies a list, not what is in it."""
    meter.charge(ELEMENT * len(value) if hasattr(value, "__len__") else ELEMENT)
    return value, *args


def lookup(meter: Meter, owner: Any, key: Any = None, *args: Any, **_: Any) -> tuple[Any, ...]:
    """Looks for a key."""
    meter.charge(meter.size(key))
    return owner, key, *args


def ordered(meter: Meter, value: Any, *args: Any, **options: Any) -> tuple[Any, ...]:
    """Compares each element, or an attribute of it, some ten times."""
    value = held(value)
    meter.charge(32 * meter.size(value) * (1 + sum(_extent(meter, option) for option in (*args, *options.values()))))
    return value, *args


def hashed(meter: Meter, value: Any, *args: Any, **options: Any) -> tuple[Any, ...]:
    """Compares each element with each, where their hashes are chosen for it."""
    value = held(value)
    product(meter, value, len(value) if isinstance(value, _SIZED) else 1, *args, **options)
    return value, *args


def summed(meter: Meter, value: Any, *args: Any, **options: Any) -> tuple[Any, ...]:
    """Adds up, which copies what is a list."""
    value = held(value)
    return product(meter, value, *args, **options) if args or options else linear(meter, value)


def escaped(meter: Meter, *args: Any, **_: Any) -> tuple[Any, ...]:
    meter.charge(_ESCAPED * sum(map(meter.text_size, args)))
    return args


def joined(meter: Meter, value: Any, separator: Any = "", *args: Any, **options: Any) -> tuple[Any, ...]:
    """Writes each element, and the separator as often."""
    value = held(value)
    if isinstance(value, _SIZED):
        grown, each = _ESCAPED if isinstance(separator, Markup) else 1, (separator, *args, *options.values())
        meter.charge(grown * (meter.text_size(value) + (1 + len(value)) * (ELEMENT + sum(map(meter.text_size, each)))))
    return value, separator, *args


def joining(meter: Meter, separator: str, value: Any) -> tuple[Any, ...]:
    """str.join, which has them the other way round."""
    value, separator = joined(meter, value, separator)
    return separator, value


def replaced(meter: Meter, text: Any, old: Any, new: Any, *args: Any, **_: Any) -> tuple[Any, ...]:
    """Writes the new text wherever the old one is."""
    linear(meter, text, old)
    text = text if isinstance(text, str) else str(text)
    grown = _ESCAPED if isinstance(text, Markup) else 1
    meter.charge(grown * (len(text) + text.count(str(old)) * meter.text_size(new)))
    return text, old, new, *args


def rows(meter: Meter, *args: Any, **options: Any) -> tuple[Any, ...]:
    """Makes lists of as many elements as its arguments and numbers add up to."""
    meter.charge(ELEMENT * sum(_extent(meter, value) for value in (*args, *options.values())))
    return args


def flowing(meter: Meter, value: Any, *args: Any, **options: Any) -> tuple[Any, ...]:
    """Takes a name or attributes apart; the elements are charged where they flow."""
    rows(meter, *args, **options)
    return value, *args


def padded(meter: Meter, text: Any, width: Any = 80, *args: Any, **_: Any) -> tuple[Any, ...]:
    return wide(meter, text, width, *args)


def as_json(meter: Meter, value: Any, **options: Any) -> tuple[Any, ...]:
    """Writes a value, each element on a line of its own where there is an indent."""
    extent = sum(_extent(meter, option) for option in options.values())
    lines = 1 if options.get("indent") is None else 1 + meter.depth(value)
    meter.charge(meter.text_size(value) * (1 + extent * lines))
    return (value,)


def rounded(meter: Meter, value: Any, precision: Any = 0, *args: Any, **options: Any) -> tuple[Any, ...]:
    if isinstance(precision, int) and abs(precision) > _DIGITS:
        raise refused(f"rounds to {precision} digits")
    return linear(meter, value, precision, *args, **options)


def formatted(meter: Meter, form: Any, *args: Any, **options: Any) -> tuple[Any, ...]:
    """printf's fields, each as wide as four digits say or as the widest value."""
    form = form if isinstance(form, str) else str(*linear(meter, form))
    check_widths(form)
    fields, widest = form.count("%"), sum(map(meter.text_size, (*args, *options.values())))
    meter.charge(_ESCAPED * (len(form) + fields * (widest + (10_000 if any(map(str.isdecimal, form)) else 20))))
    return form, *args


def numeric(_: Meter, value: Any, *args: Any) -> tuple[Any, ...]:
    """Computes a remainder, and would format a string."""
    for number in (value, *args):
        if not isinstance(number, int | float | Undefined):
            raise TypeError("only a number has a remainder")
        _check_numbers("%", number, 1)
    return value, *args


def within(meter: Meter, value: Any, container: Any) -> tuple[Any, ...]:
    """Looks for a value."""
    return linear(meter, value, held(container))


def operands(meter: Meter, operator: str, left: Any, right: Any) -> None:
    """Charge an operator that computes; numbers stay small."""
    if isinstance(left, Undefined) or isinstance(right, Undefined):
        return
    if isinstance(left, int | float) and isinstance(right, int | float):
        _check_numbers(operator, left, right)
    elif operator == "*":
        value, times = (right, left) if isinstance(left, int) else (left, right)
        if isinstance(times, int):
            meter.charge(max(times, 0) * _own_size(meter, value))
    elif operator == "%" and isinstance(left, str):
        formatted(meter, left, right)
    elif operator == "+":
        grown = _ESCAPED if isinstance(left, Markup) or isinstance(right, Markup) else 1
        meter.charge(grown * (_own_size(meter, left) + _own_size(meter, right)))
    elif operator == "-":  # of sets, which dicts' views are
        raise TypeError("only numbers are subtracted")


def check_widths(form: str) -> None:
    """ModelFolderError for a format string with fields wider than four digits say."""
    if _WIDE.search(form):
        raise refused(f"formats with {form!r:.60}")


def refused(what: str) -> ModelFolderError:
    """The error about something that no chat template needs."""
    return ModelFolderError(
        f"The chat template {what}. Correct the template of the model folder, or pass raw text with raw=True."
    )


def _extent(meter: Meter, value: Any) -> int:
    """A number's value, another's size."""
    if isinstance(value, int):
        return abs(value)
    return meter.text_size(value)


def _own_size(meter: Meter, value: Any) -> int:
    """What copying a string or list takes."""
    return ELEMENT * len(value) if isinstance(value, list | tuple) else meter.size(value)


def _check_numbers(operator: str, left: Any, right: Any) -> None:
    if not isinstance(left, int) or not isinstance(right, int):
        return
    bits = left.bit_length() + right.bit_length()
    if operator == "**":
        bits += left.bit_length() * max(right, 0)
    if bits > _BITS:
        raise refused(f"computes {operator} with numbers of more than {_BITS} bits")


_TEXT_METHODS: dict[Cost, str] = {
    linear: "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit isidentifier islower "
    "isnumeric isprintable isspace istitle isupper lower partition removeprefix removesuffix startswith swapcase title upper",
    product: "lstrip rfind rindex rpartition rstrip strip",
    pieces: "split splitlines",
    pieces_from_behind: "rsplit",
    wide: "center ljust rjust zfill",
    joining: "join",
    replaced: "replace",
}
METHODS: dict[type, dict[str, Cost]] = {
    str: {name: cost for cost, names in _TEXT_METHODS.items() for name in names.split()},
    list: {"index": linear, "count": linear, "copy": shallow},
    tuple: {"index": linear, "count": linear},
    dict: {"get": lookup, "items": free, "keys": free, "values": free, "copy": shallow},
}
"""By type and name."""
_FILTERS: dict[Cost, str] = {
    free: "d default first items last length count",
    flowing: "attr map reject rejectattr select selectattr",
    linear: "abs capitalize float int lower random string upper",
    ordered: "dictsort groupby max min sort",
    hashed: "unique",
    summed: "sum",
    product: "indent trim",
    rows: "batch slice title wordcount",
    wide: "truncate",
    padded: "center",
    shallow: "list reverse",
    escaped: "e escape forceescape safe",
    joined: "join",
    replaced: "replace",
    as_json: "tojson",
    rounded: "round",
    formatted: "format",
}
FILTERS: dict[str, Cost] = {name: cost for cost, names in _FILTERS.items() for name in names.split()}
"""All of Jinja's but those that write HTML or for people to look at: filesizeformat, pprint, striptags, urlencode, urlize,
wordwrap, xmlattr."""
_TESTS: dict[Cost, str] = {
    free: "boolean callable defined escaped false filter float integer iterable mapping none number sameas sequence string test "
    "true undefined",
    linear: "== != < <= > >= eq equalto ne lt lessthan le gt greaterthan ge lower upper",
    numeric: "divisibleby even odd",
    within: "in",
}
TESTS: dict[str, Cost] = {name: cost for cost, names in _TESTS.items() for name in names.split()}
"""All of Jinja's."""
