"""Chat templates and tokenizers as strangers write them."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

from hostile_folders import demo_copy, replace, using
from hostile_place import Attempt, Place
from hostile_values import NUMBERS, TEXTS, edited_json
from idefics2_onnx.runtime.folder import DEMO

_ATOMS = [
    "'a'", "messages", "messages[0]", "messages[0]['role']", "messages[0]['content']", "add_generation_prompt", "bos_token", "eos_token", "x", "loop", "loop.index", "self",
    "0", "1", "9", "99999", "2000000000", "1e308", "10**10", "none", "true", "[]", "{}", "[1, 2, 3]", "{'a': 1}", "('a', 'b')", "range(9)", "range(99999)", "range(10**12)",
    "namespace(a=1)", "cycler('a', 'b')", "joiner(', ')", "dict(a=1)", "lipsum(n=9)", "lipsum(n=10**6)", "raise_exception('no')", "strftime_now('%Y')", "caller", "varargs",
    "'<image>'", "'%9999999999d'", "'{0:>9999999999}'", "'{0.__class__}'", "''.__class__", "().__class__.__mro__[1].__subclasses__()", "cycler.__init__.__globals__",
    "messages.__class__", "messages.append(1)", "messages.clear()", "(x for x in x)", "'é'", "'\\ud800'", "'\\x00'", "-1", "1.5", "undefined.undefined",
]  # fmt: skip
_BINARY = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "<", "in", "and", "or", "is", "if", "is not", ">="]
_FILTERS = [
    "length", "upper", "join", "join('a'*99999)", "list", "string", "int", "float", "tojson", "tojson(indent=99999)", "center(10**9)", "indent(10**8)", "wordwrap(1)", "batch(10**9, 0)",
    "slice(10**9)", "replace('', 'aaaa')", "replace('a', 'a'*9999)", "format(1)", "format('a'*9999)", "reverse", "sort", "unique", "sum", "max", "first", "last", "random", "urlize",
    "striptags", "escape", "pprint", "xmlattr", "truncate(9)", "groupby('a')", "map('upper')", "map(attribute='__class__')", "select", "attr('__class__')", "filesizeformat", "round(10**9)",
    "default('x')", "dictsort", "items", "capitalize", "title", "trim", "wordcount", "nothing", "e", "safe", "forceescape", "sum(start=[])", "int(base=10**9)", "abs",
]  # fmt: skip
_CALLS = [
    "upper()",
    "split('')",
    "join(['a']*9999)",
    "ljust(10**9)",
    "zfill(10**9)",
    "expandtabs(10**9)",
    "format(x)",
    "format_map({})",
    "replace('', 'a'*99)",
    "encode('utf-16')",
    "translate({97: 'a'*9999})",
    "items()",
    "keys()",
    "pop()",
    "__len__()",
    "strip()",
    "capitalize()",
    "startswith('a')",
    "count('')",
    "rsplit('a')",
    "append(x)",
    "extend(x)",
    "update(x)",
]
_HONEST = json.loads((DEMO / "chat_template.json").read_bytes())["chat_template"]

_REGEXES = [
    "a",
    "",
    "(a+)+$",
    "(a|a)*b",
    "(.*)*x",
    "(?:a?){30}a{30}",
    "[",
    "(?<=a)b",
    "\\p{L}",
    "(x+x+)+y",
    ".{0,99999}",
    "(?i)é",
    "$",
    "^",
    "(a*)*",
    "\\1(a)",
    " ",
    "(?R)",
    "((((((((a*)*)*)*)*)*)*)*)",
    "\\w{1000}{1000}",
]
_CHARSMAPS = [
    "",
    "AAAA",
    "CAAAAA//////////",
    base64.b64encode((8).to_bytes(4, "little") + b"\xff" * 8 + b"abc").decode(),
    base64.b64encode(b"\0" * 64).decode(),
    "!",
]


def templates(rng: random.Random, place: Place) -> Attempt:
    """Jinja of a grammar of everything that takes time, memory or liberties."""
    folder = demo_copy(place)
    made: Any = "".join(_statement(rng, 3) for _ in range(rng.choice([1, 1, 2, 4])))
    match rng.randrange(12):
        case 0:
            at = rng.randrange(len(_HONEST))
            made = _HONEST[:at] + made + _HONEST[at:]
        case 1:
            made = _HONEST[: rng.randrange(len(_HONEST))] + rng.choice(["{", "{{", "}}", "{%", "%}", "{#", "'", "[", ""])
        case 2:
            made = _HONEST + made
        case 3:
            made = rng.choice(
                [
                    [{"name": "default", "template": made}],
                    {"default": made},
                    [made],
                    5,
                    None,
                    made * 5000,
                    "(" * 5000,
                    "{{" + "(" * 300 + "1" + ")" * 300 + "}}",
                    "{% if x %}" * 500 + "{% endif %}" * 500,
                    "{{ x" + ".x" * 5000 + " }}",
                    "{{ [1]" + "|list" * 5000 + "}}",
                    "{{ 1" + "+1" * 9999 + "}}",
                ]
            )
    text = json.dumps({"chat_template": made}).encode()
    if rng.random() < 0.2 and isinstance(made, str):
        replace(folder, "chat_template.jinja", made.encode("utf-8", "surrogatepass"))
    else:
        replace(folder, "chat_template.json", text)
    return using(rng, folder)


def tokenizers(rng: random.Random, place: Place) -> Attempt:
    """tokenizer.json with other components, or with other values in its own."""
    folder = demo_copy(place)
    replace(folder, "tokenizer.json", odd_tokenizer(rng, (folder / "tokenizer.json").read_bytes(), place.values))
    return using(rng, folder)


def odd_tokenizer(rng: random.Random, content: bytes, pool: list[Any]) -> bytes:
    """A tokenizer.json with one or two of its components exchanged, or values inside of them."""
    if rng.random() < 0.4:
        return edited_json(rng, content, pool)
    whole = json.loads(content)
    for name in rng.sample([*_COMPONENTS], rng.choice([1, 1, 2])):
        whole[name] = _COMPONENTS[name](rng)
    return json.dumps(whole).encode()


def _expression(rng: random.Random, depth: int) -> str:
    if depth <= 0 or rng.random() < 0.2:
        return rng.choice(_ATOMS)
    inner = _expression(rng, depth - 1)
    match rng.randrange(8):
        case 0 | 1:
            return f"({inner} {rng.choice(_BINARY)} {_expression(rng, depth - 1)})"
        case 2 | 3:
            return f"({inner}|{rng.choice(_FILTERS)})"
        case 4:
            return f"({inner}).{rng.choice(_CALLS)}"
        case 5:
            return f"({inner})[{_expression(rng, depth - 1)}]"
        case 6:
            return f"({inner})[{rng.choice(['::1', '1:', ':-1', '::-1', '::0', '9:1'])}]"
    return f"[{inner}, {_expression(rng, depth - 1)}]"


def _statement(rng: random.Random, depth: int) -> str:
    value = _expression(rng, rng.randrange(1, 4))
    if depth <= 0 or rng.random() < 0.25:
        return "{{ " + value + " }}"
    body = _statement(rng, depth - 1)
    return rng.choice([
        f"{{% for x in {value} %}}{body}{{% endfor %}}",
        f"{{% for x in range(99999) %}}{body}{{% endfor %}}",
        f"{{% for x in messages recursive %}}{body}{{{{ loop(messages) }}}}{{% endfor %}}",
        f"{{% if {value} %}}{body}{{% else %}}{value}{{% endif %}}",
        f"{{% set x = {value} %}}{body}",
        f"{{% set ns = namespace(x='a') %}}{{% for i in range(99) %}}{{% set ns.x = ns.x ~ ns.x %}}{{% endfor %}}{body}",
        f"{{% macro m(x) %}}{body}{{{{ m(x) }}}}{{% endmacro %}}{{{{ m({value}) }}}}",
        f"{{% set x %}}{body}{{% endset %}}{{{{ x * 9999 }}}}",
        f"{{% filter {rng.choice(_FILTERS)} %}}{body}{{% endfilter %}}",
        f"{{% call(a) x() %}}{body}{{% endcall %}}",
        f"{{% block b %}}{body}{{{{ self.b() }}}}{{% endblock %}}",
        f"{{% generation %}}{body}{{% endgeneration %}}",
        f"{{% with x = {value} %}}{body}{{% endwith %}}",
        f"{{% for a, b in {value} %}}{{% break %}}{body}{{% endfor %}}",
        "{% include 'chat_template.json' %}", "{% extends x %}", "{% import '/nowhere/x' as y %}", "{% raw %}{{ x }}{% endraw %}",
        f"{{% autoescape true %}}{body}{{% endautoescape %}}", f"{{% do {value} %}}{body}", f"{{%- {value} -%}}{body}",
    ])  # fmt: skip


def _number(rng: random.Random) -> Any:
    return rng.choice([0, 1, 2, -1, 3, 10**6, 10**9, 1 << 40, *NUMBERS, None])


def _text(rng: random.Random) -> Any:
    return rng.choice([*TEXTS, "▁", "##", "a", "Ġ", None])


def _pattern(rng: random.Random) -> dict[str, Any]:
    return {rng.choice(["Regex", "String"]): rng.choice(_REGEXES)}


def _normalizer(rng: random.Random, depth: int = 2) -> Any:
    return rng.choice([
        {"type": "Replace", "pattern": _pattern(rng), "content": rng.choice(["", "a", "a" * 9999])}, {"type": "Prepend", "prepend": _text(rng)},
        {"type": "Precompiled", "precompiled_charsmap": rng.choice(_CHARSMAPS)}, {"type": rng.choice(["NFC", "NFKD", "Nmt", "StripAccents", "Lowercase", "ByteLevel", "None"])},
        {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        {"type": "Sequence", "normalizers": [_normalizer(rng, depth - 1) for _ in range(rng.choice([0, 2, 50]))] if depth else []},
        {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaa"}] * rng.choice([3, 30])},
    ])  # fmt: skip


def _pre_tokenizer(rng: random.Random, depth: int = 2) -> Any:
    behaviour = rng.choice(["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"])
    return rng.choice([
        {"type": "Split", "pattern": _pattern(rng), "behavior": behaviour, "invert": rng.choice([True, False])}, {"type": "FixedLength", "length": _number(rng)},
        {"type": "Metaspace", "replacement": rng.choice(["▁", "", "aa", " "]), "prepend_scheme": rng.choice(["always", "never", "first", "x"]), "split": True},
        {"type": "Digits", "individual_digits": True}, {"type": rng.choice(["Whitespace", "WhitespaceSplit", "BertPreTokenizer", "UnicodeScripts", "Delimiter"])},
        {"type": "Punctuation", "behavior": behaviour}, {"type": "CharDelimiterSplit", "delimiter": rng.choice(["a", "", " ", "é"])},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": rng.choice([True, False])},
        {"type": "Sequence", "pretokenizers": [_pre_tokenizer(rng, depth - 1) for _ in range(rng.choice([0, 2, 50]))] if depth else []},
    ])  # fmt: skip


def _model(rng: random.Random) -> Any:
    vocabulary = dict(
        rng.choice(
            [
                {"a": 0, "b": 1, "ab": 2, "<image>": 436},
                {},
                {"a": 10**9},
                {"a": 4_000_000_000},
                {"é": 0, "": 1},
                {"<unk>": 0, "What": 1, "a": 1},
            ]
        )
    )
    pieces = rng.choice(
        [[["a", 0.0]], [], [["a", float("nan")], ["<unk>", 0.0]], [["a", -1e308]] * 99, [["", 0.0]], [["<image>", 1.0]]]
    )
    return rng.choice([
        {"type": "BPE", "dropout": rng.choice([None, 0.5, 1.0, 2.0, -1]), "unk_token": _text(rng), "continuing_subword_prefix": rng.choice([None, "é", "##", "a" * 99]), "end_of_word_suffix": rng.choice([None, "é"]),
         "fuse_unk": True, "byte_fallback": rng.choice([True, False]), "ignore_merges": True, "vocab": vocabulary, "merges": rng.choice([[], [["a", "b"]], ["a b"], [["a", "zz"]], [["", ""]], [["a"]], "a b"])},
        {"type": "WordPiece", "unk_token": rng.choice(["<unk>", "nope", ""]), "continuing_subword_prefix": rng.choice(["##", "é", ""]), "max_input_chars_per_word": _number(rng), "vocab": vocabulary},
        {"type": "WordLevel", "vocab": vocabulary, "unk_token": rng.choice(["nope", "a", ""])}, {"type": "Unigram", "unk_id": rng.choice([None, 0, 5, -1, 1 << 40]), "vocab": pieces, "byte_fallback": rng.choice([True, False])},
    ])  # fmt: skip


def _post_processor(rng: random.Random) -> Any:
    sequence = {"Sequence": {"id": rng.choice("ABC"), "type_id": rng.choice([0, 1, 10**10])}}
    special = {"SpecialToken": {"id": rng.choice(["<s>", "zz", ""]), "type_id": 0}}
    return rng.choice([
        {"type": "TemplateProcessing", "single": rng.choices([sequence, special], k=rng.choice([0, 1, 2, 9999])), "pair": [], "special_tokens": rng.choice([{}, {"<s>": {"id": "<s>", "ids": rng.choice([[1], [], [4_000_000_000], [1] * 99999]), "tokens": rng.choice([["<s>"], []])}}])},
        {"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", rng.choice([1, 10**9])]}, {"type": "RobertaProcessing", "sep": ["a", 1], "cls": ["b", 2], "trim_offsets": True, "add_prefix_space": True},
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}, {"type": "Sequence", "processors": []}, None,
    ])  # fmt: skip


def _decoder(rng: random.Random, depth: int = 2) -> Any:
    return rng.choice([
        {"type": "Replace", "pattern": _pattern(rng), "content": rng.choice(["", "a" * 9999])}, {"type": "WordPiece", "prefix": rng.choice(["##", ""]), "cleanup": True}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": rng.choice([" ", "a", "", "ab"]), "start": _number(rng), "stop": _number(rng)}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        {"type": "BPEDecoder", "suffix": rng.choice(["</w>", ""])}, {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True},
        {"type": "Sequence", "decoders": [_decoder(rng, depth - 1) for _ in range(rng.choice([0, 2, 30]))] if depth else []}, None,
    ])  # fmt: skip


def _added_tokens(rng: random.Random) -> Any:
    token = {
        "id": 436,
        "content": "<image>",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    odd = [
        token | {name: value}
        for name, value in [
            ("id", 0),
            ("id", 10**9),
            ("id", 4_294_967_295),
            ("id", -1),
            ("content", ""),
            ("content", "a"),
            ("content", "x" * 99999),
            ("special", False),
            ("normalized", True),
            ("single_word", True),
            ("lstrip", True),
            ("rstrip", True),
            ("content", "é"),
        ]
    ]
    return rng.choice(
        [
            [token],
            [],
            [token, token],
            [token, rng.choice(odd)],
            [rng.choice(odd)],
            odd,
            [token | {"id": i, "content": f"<{i}>"} for i in range(9999)],
        ]
    )


_COMPONENTS = {
    "normalizer": _normalizer, "pre_tokenizer": _pre_tokenizer, "model": _model, "post_processor": _post_processor, "decoder": _decoder, "added_tokens": _added_tokens,
    "truncation": lambda rng: {"direction": "Right", "max_length": _number(rng), "strategy": rng.choice(["LongestFirst", "OnlySecond"]), "stride": _number(rng)},
    "padding": lambda rng: {"strategy": rng.choice(["BatchLongest", {"Fixed": rng.choice([1, 9999, 10**9, 10**12])}]), "direction": "Left", "pad_to_multiple_of": _number(rng), "pad_id": _number(rng), "pad_type_id": 0, "pad_token": "<unk>"},
}  # fmt: skip
