"""A stranger's template is bounded and reaches nothing, an honest one renders as in Jinja's own sandbox, and no text is lost."""

from __future__ import annotations

import json
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from idefics2_onnx.demo.checkpoint_files import CHAT_TEMPLATE
from idefics2_onnx.graphs.errors import ModelFolderError
from idefics2_onnx.runtime.errors import PromptError
from idefics2_onnx.runtime.text.chat_template import ChatTemplate
from jinja2.sandbox import ImmutableSandboxedEnvironment
from PIL import Image

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
USER = [{"role": "user", "content": "hi"}]
SHARED = "{% set ns = namespace(a=(1,), b=(1,)) %}{% for i in range(60) %}{% set ns.a = (ns.a, ns.a) %}{% set ns.b = (ns.b, ns.b) %}{% endfor %}"
"""Two trees of 2**60 leaves each, in a few hundred bytes."""
MANY = "{% for i in range(99999) %}"


def rendered(source: str, messages: list[dict[str, object]] = USER, prompt: bool = True) -> str:
    return ChatTemplate(source, TOKENS).render(messages, prompt)


@pytest.mark.parametrize(
    "source",
    [
        MANY + "{% for j in range(99999) %}{% endfor %}{% endfor %}",
        MANY + "{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
        MANY + "{{ range(99999)|select('odd')|list|length }}{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(50) }}",
        "{% set x = 'a' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
        "{% set x = 'a' %}" + "{% set x = x + x %}" * 60,
        "{% set x = [1] %}" + "{% set x = x + x %}" * 60,
        "{{ ('a' * 2000000000)|length }}",
        "{{ 10 ** 9 * [0] }}",
        "{{ cycler(*('\u4e00' * 40000000)) }}",
        "{{ ('\u4e00 ' * 12000000).rsplit() }}",
        "{{ ('\u4e00' * 24000000)|join }}",
        "{{ {}['\U000e0000' * 40000000].x }}",
        "{{ ('a'*100000).replace('', 'b'*100000) }}",
        "{{ range(99999)|join('a' * 100000) }}",
        "{{ ('a'*100000).join(['b'] * 100000) }}",
        "{{ ['a']|map('center', 10**9)|list }}",
        "{{ ('a\n'*10000)|indent('x' * 100000) }}",
        "{{ [1]|batch(10**9, 'x')|list }}",
        "{{ ('%9999d'*100000) % ((1,) * 100000) }}",
        "{{ ('{0:>9999}'*100000).format(1) }}",
        "{{ [1,2]|tojson(indent=10**9) }}",
        "{{ ('a'*1000000).rfind('b' + 'a'*500000) }}",
        "{{ ([[1] * 100] * 20000)|sum(start=[]) }}",
        SHARED + "{{ ns.a }}",
        SHARED + "{{ ns.a == ns.b }}",
        SHARED + "{{ ns.a|tojson }}",
        SHARED + "{{ ns.a in [ns.b] }}",
        SHARED + "{{ {}.get(ns.a) }}",
        "{% set x = 'a' * 1000000 %}" + MANY + "{% set y = x[1:] %}{% endfor %}",
    ],
)
def test_what_takes_too_long_is_the_folders_fault(source):
    with pytest.raises(ModelFolderError, match="takes more than [0-9,]+ steps"):
        rendered(source)


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("{{ 2 ** 100000 > 3 }}", "4096 bits"),
        ("{{ ('f'*100000)|int(0, 16) is divisibleby(7) }}", "bits"),
        ("{{ '%1000000000d' % 1 }}", "formats with"),
        ("{{ '%*d' % (1000000000, 1) }}", "formats with"),
        ("{{ '%1000000000d' is even }}", "only a number"),
        ("{{ '{:>{w}}'.format(1, w=10**9) }}", "formats with"),
        ("{{ strftime_now('%1000000000d') }}", "formats with"),
        ("{{ 1|round(-1000000000) }}", "rounds to"),
        (SHARED + "{{ {ns.a: 1} }}", "as a key"),
        ("{{ dict([(2305843009213693951 * 7, 1)]) }}", "as a key"),
        ("{{ (1).to_bytes(10**9, 'big') }}", "fails on every"),
        ("{% set ns = namespace(a=[1]) %}{% for i in range(2000) %}{% set ns.a = ns.a|map('string') %}{% endfor %}", "into each other"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "fails on every conversation .maximum recursion"),
        ("{{ lipsum(n=1000000) }}", "'lipsum' is undefined"),
        ("{{ ('www.' * 100)|urlize }}", "not valid Jinja .No filter named 'urlize'"),
        ("{% autoescape 'a'|center(10**9) %}{% endautoescape %}", "chat templates have no"),
        ("{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}", "chat templates have no Block"),
        ("{% include 'x' %}", "chat templates have no Include"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "not valid Jinja"),
        ("{% for x in y %}" * 25 + "{% endfor %}" * 25, "not valid Jinja .too many statically nested"),
        ("{{ 1" + "+1" * 20000 + " }}", "not valid Jinja"),
        ("a" * 200_000, "200,000 characters"),
        ("{% if %}", "not valid Jinja"),
        ("{{ 1/0 }}", "fails on every conversation .division by zero"),
        ("{{ ''.__class__.__mro__ }}", "fails on every"),
        ("{{ ''|attr('__class__')|string|length + messages.x.y }}", "fails on every"),
        ("{{ raise_exception.__globals__.x }}", "fails on every"),
    ],
)  # fmt: skip
def test_what_no_template_needs_is_the_folders_fault(source, match):
    with pytest.raises(ModelFolderError, match=match):
        rendered(source)


def test_memory_that_runs_out_is_the_folders_fault(monkeypatch):
    template = ChatTemplate("{{ messages[0].content }}", TOKENS)
    monkeypatch.setattr(template._template, "render", lambda **_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(ModelFolderError, match="more memory"):
        template.render(USER)


def test_what_a_template_says_of_messages_is_the_calls_fault():
    alternate = "{% if messages|length > 1 %}{{ raise_exception('Roles must alternate') }}{% endif %}{{ messages[0].content }}"
    assert rendered(alternate) == "hi"
    with pytest.raises(PromptError, match="Roles must alternate"):
        rendered(alternate, USER * 2)
    with pytest.raises(PromptError, match="refuses these messages .*no attribute .first"):
        rendered("{% for m in messages %}{{ m.name.first.last if 'name' in m else m.content }}{% endfor %}", [USER[0] | {"name": {}}])  # fmt: skip


def test_the_callers_images_are_out_of_reach(tmp_path):
    target = tmp_path / "written.png"
    source = "{% for item in messages[0].content %}{% if item.image %}{{ item.image.save(path) }}{% endif %}{{ item.text }}{% endfor %}"
    for image in (Image.new("RGB", (2, 2)), target, np.zeros((2, 2, 3))):
        with pytest.raises(PromptError, match="refuses these messages .*no attribute .save"):
            ChatTemplate(source, {"path": str(target)}).render(
                [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "x"}]}]
            )
    assert not target.exists()


HONEST = {
    "idefics2": CHAT_TEMPLATE,
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'][0].text|trim + '<|im_end|>\n' }}{% endfor %}",
    "pieces": "{%- set ns = namespace(n=0, roles=[]) -%}{%- macro turn(m, n) -%}{{ n }}[{{ m.role|title }}]{{ caller(m.content) }}"
    "{%- endmacro -%}{%- for m in messages if m.role != 'nobody' -%}{%- set ns.n = ns.n + 1 -%}{%- set ns.roles = ns.roles + [m.role] -%}"
    "{%- call(content) turn(m, '%02d' % ns.n) -%}{%- for item in content -%}{{ item.text if 'text' in item else '<image>' }}"
    "{%- endfor -%}{%- endcall -%}{{ loop.changed(m.role) }}{{ loop.cycle('a', 'b') }}{%- endfor -%}{{ ns.roles|unique|join('+') }}"
    "{{ messages[-1].content[0:1]|tojson(indent=1) }}{{ messages[::-1]|map(attribute='role')|list }}{{ '{:>5}|{!r}'.format(3, 'é') }}",
    "types": "{% set s %}{% filter upper %}{{ messages[0].content[-1].text }}{% endfilter %}{% endset %}{{ s.lower().split('a', 1) }}"
    "{% for k, v in {'x': [1, (2, none)], 'y': 1.5}.items() %}{{ k ~ v }}{% endfor %}{{ ('<' ~ s)|e }}{{ ('<b>'|safe) + '<i>' }}"
    "{% for g in [{'r': 2}, {'r': 1}, {'r': 2}]|groupby('r') %}{{ g.grouper }}{{ g.list|length }}{% endfor %}{{ [3, 1]|sort }}"
    "{{ 7 // 2 ** 2 * 3 % 5 - -1 / 4 }}{{ [1] * 2 + [2] }}{{ 'a' in s, 1 in [1], 1 < 2 < 3, not s }}{{ x|default('none') }}"
    "{% for d in [[1, [2]], [3]] recursive %}{{ loop(d) if d is iterable else d }}{% endfor %}{{ range(3)|sum, 7 is odd }}"
    "{% for m in messages %}{{ m.content[-1].text.strip(' .')|replace('a', 'ab')|truncate(200) }}{% break %}{% endfor %}"
    "{% if 'user' in messages|map(attribute='role') %}u{% endif %}{{ [1, 2, 3]|batch(2)|list }}{{ cycler('p', 'q').next() }}"
    "{{ ['b', 'A']|sort|first }}{{ '%s=%r' % ('a', [1]) }}{{ 'x'|center(5) }}{{ dict(a=1)|tojson }}{{ 1|float|round(1) }}",
}  # fmt: skip


@pytest.mark.parametrize("source", HONEST.values(), ids=HONEST.keys())
@pytest.mark.parametrize("turns", [1, 2, 7])
def test_honest_templates_render_as_in_jinjas_sandbox(source, turns):
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    plain.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False} | options)
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": [{"type": "text", "text": f' {i} wörld\'s "a" {{{{ x }}}} <b> \\ \n.'}]}
        for i in range(turns)
    ]
    for prompt in (True, False):
        expected = plain.from_string(source).render(messages=messages, add_generation_prompt=prompt, **TOKENS)
        assert ChatTemplate(source, TOKENS)._text(messages, prompt) == expected


def test_long_conversations_stay_far_below_the_limit(monkeypatch):
    monkeypatch.setattr("idefics2_onnx.runtime.text.template_meter._STEPS", 0)
    text = "word " * 4000
    for name in ("idefics2", "chatml", "pieces"):
        for size, turns in ((1, 500), (4000, 100)):
            messages = [{"role": "user", "content": [{"type": "text", "text": text[:size]}]} for _ in range(turns)]
            assert rendered(HONEST[name], messages).count(text[:size].strip()) >= turns


def test_threads_have_their_own_meters():
    template, found = ChatTemplate(CHAT_TEMPLATE, TOKENS), []
    chat = [{"role": "user", "content": [{"type": "text", "text": "word " * 100}]}] * 100

    def render() -> None:
        found.append(template.render(chat))

    threads = [threading.Thread(target=render) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert pickle.loads(pickle.dumps(template)).render(chat) == found[0]


def turn(*content: object, role: str = "user", **others: object) -> dict[str, object]:
    return {"role": role, "content": list(content), **others}


TEXT = {"type": "text", "text": "What is it?"}
CALLS = [{"id": "0", "type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}]
TOOLS = (
    "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls if c.type == 'function' %}"
    "{{ c.function.name }}{{ c.function.arguments }}{% endfor %}{% endfor %}"
)
STRINGS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.mark.parametrize(
    ("source", "messages", "match"),
    [
        (CHAT_TEMPLATE, [{"role": "user", "content": "User"}], "leaves out the text 'User', because this message's content is a string"),
        (CHAT_TEMPLATE, [{"role": "user", "content": "er"}], "leaves out the text 'er'"),
        (CHAT_TEMPLATE, [turn(TEXT), {"role": "user", "content": "What is it?"}], "leaves out the text 'What is it\\?'"),
        (CHAT_TEMPLATE, [turn("er")], "because it stands in the content as a string"),
        (CHAT_TEMPLATE, [turn(TEXT, "What is it?")], "because it stands in the content as a string"),
        (CHAT_TEMPLATE, [turn({"type": "txt", "text": "a"})], "an item of the type 'txt'. Give one of the types text, input_text"),
        (CHAT_TEMPLATE, [turn({"text": "a"})], "which has no type"),
        (CHAT_TEMPLATE, [turn(5)], "which has no type"),
        (CHAT_TEMPLATE, [turn(10**5000)], "has an item a int, which has no type"),
        (CHAT_TEMPLATE, [turn({"type": "text", "content": "a"})], "without a text"),
        (CHAT_TEMPLATE, [turn({"type": "text", "text": 5})], "without a text"),
        (CHAT_TEMPLATE, [turn({"type": np.zeros((2, 2))})], "an item of the type array"),
        (CHAT_TEMPLATE, [turn({"type": "image", "content": np.zeros((2, 2))})], "under 'content'"),
        (CHAT_TEMPLATE, [turn({"type": "text", "text": "", "content": "a"})], "'a' under 'content', which no template uses"),
        (CHAT_TEMPLATE, [turn({"type": "image", "text": "a"})], "'a' under 'text', which no template uses"),
        (CHAT_TEMPLATE, [turn(TEXT, text="a")], "the text 'a' beside its content"),
        (CHAT_TEMPLATE, [{"role": "user", "content": {"type": "text", "text": "a"}}], "content is"),
        (CHAT_TEMPLATE, [{"role": "user", "content": (TEXT,)}], "content is"),
        ("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}", [{"role": "system", "content": "Be brief."}, *USER], "'Be brief.', which a message of the role 'system' has"),
        ("{{ messages[-1].content }}", [*USER, {"role": "user", "content": "ho"}], "'hi'"),
        (CHAT_TEMPLATE, [turn(TEXT, name="Ann")], "leaves out 'name', which a message of the role 'user' has. Leave it out"),
        (CHAT_TEMPLATE, [turn(TEXT, name="What")], "leaves out 'name'"),
        (CHAT_TEMPLATE, [turn(TEXT), turn(TEXT, role="assistant", tool_calls=CALLS)], "leaves out 'tool_calls', which a message of the role 'assistant'"),
        (CHAT_TEMPLATE, [turn(TEXT, **{"": ("Ann",)})], "leaves out ''"),
        (CHAT_TEMPLATE, [turn(TEXT, a="", b=[{"c": [" ", "Ann"]}])], "leaves out 'b'"),
        (TOOLS + "{{ raise_exception('no') if '\ue000' in messages[0].content }}", [{"role": "user", "content": "hi", "name": "Ann"}], "leaves out 'name'"),
        ("{{ messages[0].content }}{{ messages[0].keys()|list }}", [{"role": "user", "content": "hi", "name": "Ann"}], "leaves out 'name'"),
    ],
)  # fmt: skip
def test_text_that_would_be_lost_is_refused(source, messages, match):
    with pytest.raises(PromptError, match=match):
        rendered(source, messages)


@pytest.mark.parametrize(
    ("source", "messages", "expected"),
    [
        (CHAT_TEMPLATE, [turn({"type": "input_text", "text": "a"})], "User: a<end_of_utterance>\nAssistant:"),
        (CHAT_TEMPLATE, [turn({"type": "text", "text": ""})], "User: <end_of_utterance>\nAssistant:"),
        (STRINGS, [{"role": "user", "content": "user"}], "user: user\n"),
        (STRINGS, [turn("user", TEXT)], "user: ['user', {'type': 'text', 'text': 'What is it?'}]\n"),
        ("{% if messages[0].content == 'hi' %}<hi>{% else %}other{% endif %}", USER, "<hi>"),
        ("{% for m in messages %}{{ m.content|tojson(ensure_ascii=true) }}{% endfor %}", USER, '"hi"'),
        (CHAT_TEMPLATE, [turn({"type": "text", "text": "a"}, name=None, tool_calls=[], refusal="", weight=1, audio={"type": "none"})], "User: a<end_of_utterance>\nAssistant:"),
        (TOOLS, [{"role": "assistant", "content": None, "tool_calls": CALLS}], "Nonelook{'at': 'it'}"),
        ("{{ messages[0].content }}{{ 'Hi!' if messages[0].name == 'Ann' }}{{ messages[0].name }}", [{"role": "user", "content": "hi", "name": "Ann"}], "hiHi!Ann"),
        ("{{ '' if messages[0].content|length < 3 else raise_exception('no') }}{{ messages[0].content|upper|lower }}", USER, "hi"),
    ],
)  # fmt: skip
def test_text_that_the_template_uses_is_kept(source, messages, expected):
    template = ChatTemplate(source, TOKENS)
    assert [template.render(messages, True) for _ in range(2)] == [expected] * 2


def test_a_conversation_that_holds_itself():
    content: list[object] = [TEXT]
    content.append({"type": "image", "image": content})
    with pytest.raises(PromptError, match="hold themselves"):
        rendered(CHAT_TEMPLATE, [turn(*content)])
    deep: list[object] = ["a"]
    for _ in range(100):
        deep = [deep]
    with pytest.raises(PromptError, match="more than 64 lists in lists"):
        rendered(CHAT_TEMPLATE, [turn(TEXT, name=deep)])


def test_no_source_needs_more_than_jinja(tmp_path: Path):
    """The reference's own globals and filters are there."""
    assert rendered("{{ strftime_now('%Y')|length }}{{ messages[0].content }}") == "4hi"
    assert rendered("{% generation %}{{ messages[0].content }}{% endgeneration %}") == "hi"
    with pytest.raises(ModelFolderError, match="holds no '_x'"):
        rendered("{% set ns = namespace(_x=1) %}")
