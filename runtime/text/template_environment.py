"""Jinja's sandbox with a meter: what a template does is charged, and only what chat templates need is there.

Statements are charged where template_charges.py has put it. Calls, filters, tests and operators go through the environment, which
charges them by template_costs.py.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import wraps
from typing import Any

from jinja2 import TemplateSyntaxError, Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Cycler, Joiner, Namespace
from markupsafe import Markup

from .template_charges import Charges, ChargingGenerator, Marked
from .template_costs import FILTERS, METHODS, TESTS, Cost, check_widths, linear, operands, refused
from .template_meter import CALL, ELEMENT, METER, Flow, held

_SOURCE = 64 << 10
"""Characters; the largest known templates have some 30,000."""
_CHAIN = 30
"""Filters that may wait for each other's elements."""
_KEYS = (str, int, float, bool, type(None))
_MEMBERS = (Namespace, LoopContext, Cycler, Joiner, Macro)
"""Objects besides strings and containers whose attributes a template may name."""


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """Templates of it render while METER is set.

    Args:
        functions: what a template may call, by name.
        variables: what else it may name.
    """

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, filters: dict[str, Any], functions: dict[str, Any], variables: dict[str, str]) -> None:
        # Nothing is computed while a template is compiled: neither its constants nor, as the context is passed, its output.
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Marked], optimized=False, finalize=_written
        )
        self.code_generator_class = ChargingGenerator
        known: dict[str, Any] = self.filters | filters
        tests: dict[str, Any] = self.tests
        self.filters = {name: _metered(known[name], cost) for name, cost in FILTERS.items()}
        self.tests = {name: _metered(tests[name], cost) for name, cost in TESTS.items()}
        own = {"range": self.globals["range"], "cycler": Cycler, "joiner": Joiner, "namespace": _Namespace, "dict": _dict}
        self._callable = {*own.values(), *functions.values()}
        self.globals = own | functions | variables

    def syntax_tree(self, source: str) -> nodes.Template:
        """Parse a template and put the charges in; TemplateSyntaxError for what is not known."""
        if len(source) > _SOURCE:
            raise TemplateSyntaxError(f"it has {len(source):,} characters, more than {_SOURCE:,}", 1)
        tree = Charges().visit(self.parse(source))
        tree.set_environment(self)
        assert isinstance(tree, nodes.Template)
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        methods = METHODS.get(str if type(obj) is Markup else type(obj))
        if methods is not None:
            return attr in methods
        if isinstance(obj, tuple):  # a group that groupby made
            return attr in getattr(obj, "_fields", ())
        return isinstance(obj, _MEMBERS) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if isinstance(value, types.BuiltinMethodType) and value.__name__ == "format" and type(value.__self__) is str:
            return _Format(self, value.__self__)
        return None

    def call(self, context: Context, function: Any, /, *args: Any, **options: Any) -> Any:
        METER.get().charge(CALL + ELEMENT * (len(args) + len(options)))
        owner = getattr(function, "__self__", None)
        methods = METHODS.get(str if type(owner) is Markup else type(owner))
        if methods is not None:
            own = {name: value for name, value in options.items() if not name.startswith("_")}
            return function(*methods[function.__name__](METER.get(), owner, *args, **own)[1:], **own)
        if isinstance(owner, LoopContext) or function in self._callable:
            linear(METER.get(), *args)
        elif not isinstance(function, Macro | LoopContext | Cycler | Joiner | Undefined | _Format) and not isinstance(
            owner, Cycler
        ):
            raise refused(f"calls a {type(function).__name__}")
        return super().call(context, function, *args, **options)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        operands(METER.get(), operator, left, right)
        return super().call_binop(context, operator, left, right)

    # What the charges in a compiled template call.

    def charge(self, steps: int) -> bool:
        return METER.get().charge(steps)

    def read(self, value: Any) -> Any:
        """An operand that is read as a whole."""
        value = held(value)
        METER.get().charge(METER.get().text_size(value))
        return value

    def searched(self, value: Any) -> Any:
        """A container that is searched; a dict does not read what is in it."""
        return value if type(value) is dict else self.read(value)

    def copied(self, value: Any) -> Any:
        """A slice."""
        METER.get().charge(ELEMENT * len(value) if isinstance(value, list | tuple) else METER.get().size(value))
        return value

    def spread(self, value: Any) -> Any:
        """What becomes arguments of a call."""
        METER.get().charge(ELEMENT * len(value) if hasattr(value, "__len__") else ELEMENT)
        return value

    def key(self, value: Any) -> Any:
        """A key, which an error may write out with escapes."""
        METER.get().charge(ELEMENT * METER.get().size(_key(value)))
        return value


class _Namespace(Namespace):
    """As the reference's, which takes no names with an underscore in front; written out, it does not show what it holds."""

    def __init__(*args: Any, **attributes: Any) -> None:  # an attribute may be called self
        held_attributes = _dict(*args[1:], **attributes)
        for name in held_attributes:
            _check_name(name)
        Namespace.__init__(args[0], held_attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


class _Format:
    """str.format of a string, with fields no wider than four digits say."""

    def __init__(self, environment: MeteredEnvironment, form: str) -> None:
        self._environment, self._form = environment, form

    def __call__(self, *args: Any, **options: Any) -> str:
        METER.get().charge(len(self._form))
        return _Formatter(self._environment).vformat(self._form, args, options)


class _Formatter(SandboxedFormatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        check_widths(format_spec)
        METER.get().charge(METER.get().text_size(value) + (10_000 if format_spec else 0))
        return str(super().format_field(value, format_spec))

    def convert_field(self, value: Any, conversion: Any) -> Any:
        METER.get().charge(CALL + METER.get().text_size([value]))
        return super().convert_field(value, conversion)


@pass_context
def _written(_: Context, value: Any) -> Any:
    """A value that is put out."""
    meter = METER.get()
    meter.charge(CALL // 2 + (len(value) if type(value) is str else meter.text_size(value)))
    return value


def _metered(function: Callable[..., Any], cost: Cost) -> Callable[..., Any]:
    """A filter or test that is charged before it is called, and for each element that it yields."""
    skipped = int(hasattr(function, "jinja_pass_arg"))

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        meter = METER.get()
        meter.charge(CALL)
        given = cost(meter, *args[skipped:], **options)
        result = function(*args[:skipped], *given, **options)
        if not hasattr(type(result), "__next__"):
            return result
        depth = 1 + max((value.depth for value in given if isinstance(value, Flow)), default=0)
        if depth > _CHAIN:
            raise refused(f"puts more than {_CHAIN} filters into each other")
        return Flow(meter, result, sum(map(meter.size, (*given[1:], *options.values()))), depth)

    return call


def _dict(*args: Any, **items: Any) -> dict[str, Any]:
    source = held(args[0]) if args else {}
    pairs = [tuple(pair) for pair in (source.items() if isinstance(source, dict) else source)]
    METER.get().charge(ELEMENT * len(pairs))
    return dict([(_key(name), value) for name, value in pairs], **items)


def _key(value: Any) -> Any:
    """A key of a dict or list: no other type's, nor larger numbers, whose hashes can be chosen to be the same."""
    if not isinstance(value, (*_KEYS, Undefined)) or (isinstance(value, int) and value.bit_length() > 60):
        raise refused(f"uses a {type(value).__name__} as a key")
    return value


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace holds no {name!r:.60}")
