"""What Python's jinja2 makes of chat templates and of every construct of the subset.

    python3 tests/format/chat_template/make_fixtures.py [smollm2-template.jinja]      (needs PyPI jinja2; made with 3.1.6)

The environment is the one chat templates are written for: sandboxed, trim_blocks and lstrip_blocks on, loop
controls, tojson that keeps the order of keys and all characters. With a file as argument (the value of the key
tokenizer.chat_template of SmolLM2's GGUF) the conversations are rendered with that too, into smollm2.json.
"""
import json
import os
import sys
from datetime import datetime

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = os.path.dirname(os.path.abspath(__file__))


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None: json.dumps(x, ensure_ascii=ensure_ascii, indent=indent)
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = lambda form: datetime(2024, 7, 26).strftime(form)

TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather of a place; <b>né</b> \"today\".",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}, "days": {"type": "integer", "default": 1.5, "enum": [1, 2]}, "x": {}, "y": []},
                       "required": ["place"], "strict": True, "z": None}}}
S, U, A = ({"role": r, "content": c} for r, c in (("system", "  Be kind. \n"), ("user", "Hello there!\n"), ("assistant", " Hi. ")))
CONVERSATIONS = [
    dict(messages=[U]), dict(messages=[U], add_generation_prompt=True), dict(messages=[S, U], add_generation_prompt=True),
    dict(messages=[S, U, A, {"role": "user", "content": "日本語 🎉 <|im_end|> {{ x }} {% y %}"}], add_generation_prompt=True), dict(messages=[S, U, A, U, A]),
    dict(messages=[{"role": "user", "content": ""}], add_generation_prompt=True), dict(messages=[S]),
    dict(messages=[S, U], tools=[TOOL], add_generation_prompt=True), dict(messages=[U, A], tools=[TOOL, TOOL], tools_in_user_message=False),
    dict(messages=[S], tools=[TOOL]),
    dict(messages=[S, U, {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"place": "Köln", "days": 2}}}]},
                   {"role": "tool", "content": {"sky": "grey", "t": -3.25, "list": [1, "a\n", None]}}, A], tools=[TOOL], add_generation_prompt=True),
    dict(messages=[U, {"role": "ipython", "content": "plain"}], tools=None, date_string="01 Jan 2026"),
    dict(messages=[U, {"role": "assistant", "tool_calls": []}]),
    dict(messages=[U], date_string="3 Feb 2025", custom_tools=[TOOL]),
]

V = dict(s="  Hello, World!  ", u="naïve Straße ÉTÉ ǆ", e="", n=7, m=-3, f=2.5, z=0, t=True, no=None, l=[3, 1, 2], w=["a", "b", "c"], d={"b": 1, "a": "x", "n": None, "items": [9]},
         people=[{"name": "Ann", "age": 3, "tags": ["x"]}, {"name": "Bob", "age": 5}, {"name": "Cy", "age": 3, "tags": []}], j="日本語テキスト", big=12345678901234, q="it's \"q\"\n\t\\", nested={"a": [1, {"b": [True, None, 1.0]}]})

SNIPPETS = r"""
{{ s }}|{{ s | trim }}|{{ s.strip() }}|{{ s.lstrip() }}|{{ s.rstrip() }}|{{ s.strip(' H!') }}
{{ u | upper }}|{{ u | lower }}|{{ u.upper() }}|{{ u.title() }}|{{ u | title }}|{{ u | capitalize }}|{{ "o'neil-smith x2y (z" .title() }}|{{ "o'neil-smith x2y (z" | title }}
{{ n + 1 }} {{ n - 10 }} {{ n * m }} {{ n / 2 }} {{ n // 2 }} {{ m // 2 }} {{ n % 4 }} {{ m % 4 }} {{ n % -4 }} {{ f * 2 }} {{ f // 1 }} {{ -f % 2 }} {{ -n }} {{ +n }} {{ - - n }}
{{ 1 + 2 * 3 - 4 / 2 }} {{ (1 + 2) * 3 }} {{ "a" ~ 1 ~ none ~ true ~ 1.5 }} {{ "ab" * 3 }} {{ 2 * "x" }} {{ [1] + [2, "a"] }} {{ 7 ~ 8 * 2 }}
{{ n == 7 }} {{ n == 7.0 }} {{ t == 1 }} {{ "a" == 'a' }} {{ none == none }} {{ l == [3, 1, 2] }} {{ d == {"b": 1} }} {{ n != 7 }} {{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }} {{ "a" < "b" }} {{ 3 >= 3 }} {{ 2 <= 1 }}
{{ 1 in l }} {{ 9 in l }} {{ 9 not in l }} {{ "ell" in s }} {{ "b" in d }} {{ "q" not in d }} {{ "x" in missing }} {{ "" in "" }}
{{ t and n }} {{ z and n }} {{ z or n }} {{ not z }} {{ not n == 7 }} {{ e or "empty" }} {{ none or false }} {{ missing or "m" }} {{ not (t and z) }}
{{ "yes" if t else "no" }} {{ "yes" if z else "no" }} {{ "yes" if z }} {{ 1 if z else 2 if z else 3 }}
[{{ missing }}] {{ missing is defined }} {{ s is defined }} {{ no is none }} {{ no is not none }} {{ s is string }} {{ d is mapping }} {{ l is iterable }} {{ s is iterable }} {{ n is number }} {{ l is sequence }} {{ d.q is undefined }} {{ t is boolean }} {{ n is integer }} {{ f is float }} {{ t is true }} {{ z is false }} {{ n is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 2 is in l }} {{ n is eq 7 }} {{ n is equalto(8) }} {{ raise_exception is defined }} {{ f is number and f > 1 }}
{{ l[0] }} {{ l[-1] }} {{ l[9] }} {{ d['b'] }} {{ d.a }} {{ d["n"] }} {{ s[2] }} {{ j[0] }} {{ j[-1] }} {{ people[1].name }} {{ people[1]['age'] }} {{ nested.a[1].b[2] }} {{ d['items'] }}
{{ l[1:] }} {{ l[:-1] }} {{ l[::-1] }} {{ l[::2] }} {{ j[2:4] }} {{ j[::-1] }} {{ s[2:-2] }} {{ l[5:] }} {{ l[-2:] }} {{ j[:3] }} {{ l[1:1] }} {{ j[-3:-1] }} {{ l[-9:9:2] }} {{ w[2:0:-1] }} {{ l[:] }}
{{ l | length }} {{ s | length }} {{ j | length }} {{ d | count }} {{ missing | length }} {{ e | length }}
{{ missing | default("d") }} {{ no | default("d") }} {{ e | default("d") }} {{ e | default("d", true) }} {{ no | d("d", boolean=true) }} {{ missing | default }}|
{{ w | join }} {{ w | join(", ") }} {{ l | join("-") }} {{ ", ".join(w) }} {{ people | join(", ", attribute="name") }} {{ "abc" | join(".") }}
{{ s | replace("l", "L") }} {{ s.replace("l", "") }} {{ "aaa".replace("a", "b", 2) }} {{ "abc" | replace("", "-") }} {{ "aXbX" | replace("X", "XX") }}
{{ w | first }} {{ w | last }} [{{ [] | first }}] {{ "xyz" | first }} {{ "xyz" | list }} {{ d | list }} {{ w | reverse | list }} {{ "abc" | reverse }}
{{ "a,b,,c".split(",") }} {{ "a b  c ".split() }} {{ "a,b,c".split(",", 1) }} {{ "  a b  c ".split(none, 1) }} {{ "abc".split("x") }} {{ "a</t>b".split("</t>")[-1] }} {{ "".split(",") }} {{ "".split() }}
{{ s.startswith("  H") }} {{ s.endswith("!") }} {{ "abc".startswith(("x", "a")) }} {{ "banana".count("an") }} {{ "banana".find("nan") }} {{ "banana".find("q") }} {{ j.find("テ") }}
{{ d.items() | list }} {{ d.keys() | list }} {{ d.values() | list }} {{ d.get("a") }} {{ d.get("q") }} {{ d.get("q", 5) }} {% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %} {% for k, v in d | items %}{{ k }}{% endfor %}
{{ d | tojson }} {{ l | tojson }} {{ q | tojson }} {{ nested | tojson }} {{ j | tojson }} {{ no | tojson }} {{ t | tojson }} {{ f | tojson }}
{{ nested | tojson(indent=2) }} {{ [] | tojson(indent=2) }} {{ {} | tojson(indent=2) }} {{ "\x7f\x01 / <>&'" | tojson }}
{{ nested }} {{ q }} {{ [q, "a'b", 'a"b', "é\u200b\n"] }} {{ (1, "a") }} {{ (1,) }} {{ {"k": (1, [2])} }} {{ [none, true, 1.0] }}
{{ 1.0 }} {{ 0.1 + 0.2 }} {{ 1e0 if false else 100000000000000000.0 * 10 }} {{ 0.00001 * 1 }} {{ 0.0001 }} {{ 123456789.125 }} {{ 10 / 3 }} {{ 1 / 10 }} {{ 9007199254740993.0 }} {{ 5 / 1 }} {{ -0.0 }} {{ 3.0 * 1000000 * 1000000 * 1000000 }} {{ big }} {{ big * 1.0 }}
{{ "5" | int + 1 }} {{ "x" | int(9) }} {{ 3.9 | int }} {{ "2.5" | float }} {{ n | float }} {{ m | abs }} {{ n | string + "!" }} {{ "<b>" | safe }} {{ t | int }} {{ " 12 " | int }} {{ "3.7" | int }}
{{ people | map(attribute="name") | list }} {{ w | map("upper") | join }} {{ people | selectattr("age", "equalto", 3) | map(attribute="name") | join(",") }} {{ people | selectattr("tags") | list | length }} {{ people | rejectattr("tags", "defined") | map(attribute="name") | first }} {{ [0, 1, "", "a"] | select | list }} {{ l | reject("odd") | list }} {{ l | select("gt", 1) | list }} {{ people | map(attribute="tags", default="-") | list }}
{% for x in l %}{{ loop.index }}/{{ loop.length }}:{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}
{% for x in w %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}[{{ loop.previtem }}|{{ loop.nextitem }}]{% endfor %}
{% for x in [] %}a{% else %}none{% endfor %} {% for x in missing %}a{% else %}m{% endfor %} {% for c in "añ" %}<{{ c }}>{% endfor %} {% for k in d %}{{ k }}{% endfor %}
{% for x in l if x > 1 %}{{ loop.index }}{{ x }}{% else %}no{% endfor %} {% for p in people if p.age == 9 %}x{% else %}nobody{% endfor %} {% for p in people if not loop is defined %}{{ p.name }}{% endfor %}
{% for a, b in [[1, 2], (3, 4)] %}{{ a }}{{ b }} {% endfor %}{% for (a, b) in [[1, 2]] %}{{ a }}{% endfor %} {% for x in l %}{% for y in w %}{{ x }}{{ y }}{{ loop.index }} {% endfor %}{{ loop.index }};{% endfor %}
{% for x in range(5) %}{{ x }}{% endfor %} {{ range(2, 5) | list }} {{ range(5, 0, -2) | list }} {% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% set x = 1 %}{% for i in l %}{% set x = i %}{{ x }}{% endfor %}{{ x }} {% set ns = namespace(c=0, o="a") %}{% for i in l %}{% set ns.c = ns.c + i %}{% endfor %}{{ ns.c }}{{ ns.o }}{{ ns.q is defined }}
{% set a, b = 1, 2 %}{{ a }}{{ b }} {% set c = 1, 2 %}{{ c }} {% if z %}{% set k = 1 %}{% else %}{% set k = 2 %}{% endif %}{{ k }} {% set h %}x{{ n }}y{% endset %}{{ h | upper }} {% set s = s | trim %}{{ s }}
{% for i in l %}{{ y is defined }}{% set y = i %}{% endfor %}{{ y is defined }} {% for loop_x in l %}{% set n = n + loop_x %}{{ n }} {% endfor %}{{ n }}
{% if n > 5 %}a{% elif n > 3 %}b{% else %}c{% endif %}{% if z %}a{% elif e %}b{% elif n %}c{% endif %}{% if z %}{% endif %}{% if not z and (t or e) %}ok{% endif %}
{{ 'a\nb\t\'"\\ \x41\u00e9' }} {{ "a" "b" 'c' }} {{ "q\q" }} {{ 'multi
line' }} {{ "{{ }}" }} {{ "%}" }}
{{ {"a": {"b": 1}}.a.b }}{{ {'x': [1, {'y': 2}]}['x'][1]['y'] }} {{ dict(a=1, b="c") }} {{ [1, 2, 3,] }} {{ {"a": 1,} }} {{ () }} {{ [] }} {{ {} }}
{{ strftime_now("%d %b %Y") }} {{ strftime_now("%Y-%m-%d %A %B") }} {{ d | length > 3 and "big" }} {{ w | join("") | upper ~ "!" }} {{ -1 | abs }} {{ not l | length == 0 }} {{ s | trim | length + 1 }} {{ "a" + "b" | upper }}
{{ true }} {{ True }} {{ false }} {{ False }} {{ none }} {{ None }} {{ t is true and z is not true }} {{ d.b is defined and d.b == 1 }} {{ [1, 2] is not string }} {{ n is not none and n }}
{{ missing is sequence }} {{ missing is iterable }} {{ missing is mapping }} {{ n is sequence }} {{ d is sequence }}
""".strip("\n").split("\n{{ 'a\\nb")
SNIPPETS = SNIPPETS[0].split("\n") + ["{{ 'a\\nb" + SNIPPETS[1].split("\n{{ {\"a\"")[0]] + ("{{ {\"a\"" + SNIPPETS[1].split("\n{{ {\"a\"")[1]).split("\n")

# Macros: lexical scopes, defaults at the time of the call, recursion; parts that are not read; order.
MACROS = [
    "{% macro m(a, b='B', c=a) %}<{{ a }}|{{ b }}|{{ c }}>{% endmacro %}{{ m(1) }}{{ m(1, 2, 3) }}{{ m(c=3, a=1) }}{{ m() }}{{ m(1, c='x') }}{{ m(missing, missing) }}",
    "{% macro m() %}{{ x }}{{ n }}{% endmacro %}{{ m() }}{% set x = 1 %}{{ m() }}{% set x = 2 %}{{ m() }}{% for x in l %}{{ m() }}{{ x }}{% endfor %}",
    "{% macro outer(k) %}{% set q = k * 2 %}{{ inner(q) }}{{ n is defined }}{{ loop is defined }}{% endmacro %}{% macro inner(v) %}[{{ v }}{{ q is defined }}{{ k is defined }}]{% endmacro %}{% for i in l %}{{ outer(i) }}{% endfor %}{{ q is defined }}",
    "{% macro tree(v, depth=0) %}{% if v is mapping %}{% for k, w in v | dictsort %}{{ ' ' * depth }}{{ k }}: {{ tree(w, depth + 1) }}{% endfor %}{% elif v is sequence and v is not string %}{% for w in v %}{{ tree(w, depth=depth + 1) }},{% endfor %}{% else %}{{ v }}\n{% endif %}{% endmacro %}{{ tree(nested) }}{{ tree(d) }}",
    "{% macro f(n) %}{{ 1 if n < 2 else n * (f(n - 1) | int) }}{% endmacro %}{{ f(10) }}{{ (f(3) ~ '!') | upper }}{{ f(4) is string }}{{ f is callable }}{{ f is defined }}{{ f(3) | length }}{% if f(1) == '1' %}y{% endif %}",
    "{%- macro spaced(x) -%}\n  {{- x }}\n  {% if x %}\n  yes\n  {% endif %}\n{%- endmacro -%}\n\n  {{ spaced(1) }}|{{ spaced('') -}}\n",
    "{% for i in l %}{% macro here() %}{{ i }}{% for y in range(3) %}{% if y == 1 %}{% continue %}{% endif %}{{ y }}{% endfor %}{% endmacro %}{{ here() }};{% endfor %}",
    "{% if t %}{% macro m(a) %}A{{ a }}{% endmacro %}{% else %}{% macro m(a) %}B{{ a }}{% endmacro %}{% endif %}{{ m(n) }}{% set m2 = m %}{{ m2(2) }}{% set y %}{{ m(3) }}!{% endset %}{{ y }}{% macro m(a) %}C{% endmacro %}{{ m(1) }}",
    "{% macro m(d) %}{% for k in d %}{{ loop.index }}{{ k }}{% endfor %}{% endmacro %}{% for p in people %}{{ m(p) }}{{ loop.index }}{% endfor %}{% set ns = namespace(c=0) %}{% macro count() %}{% set ns.c = ns.c + 1 %}{% endmacro %}{{ count() }}{{ count() }}{{ ns.c }}",
    "{% macro range(a) %}mine{{ a }}{% endmacro %}{{ range(5) }}{% macro e() %}{% endmacro %}[{{ e() }}]{% macro n(n=n) %}{{ n }}{% endmacro %}",
    "{% macro a(x, y=2, z=3) %}{{ x }}{{ y }}{{ z }};{% endmacro %}{% set p = [7, 8] %}{{ a(*p) }}{{ a(1, *p) }}{{ a(*p, z=9) }}{{ a(*[]) }}{% for m in [a] %}{{ [m][0](*'ab') }}{% endfor %}{{ range(*[1, 4]) | list }}{{ 'a-b'.replace(*['-', '+']) }}",
    "{{ none | selectattr('x') | list }}{{ 0 | select | list }}{{ none | map('upper') | join }}{{ false | reject | list }}{{ '' | map(attribute='x') | list }}",
    "{% set x = 1 %}{% set b %}{{ x }}{% set x = 2 %}{{ x }}{% set z9 = 3 %}{% endset %}{{ b }}{{ x }}{{ z9 is defined }}",
    "a {% raw %} {{ x }} {% if y %} {# c #} %} {% endraw %} b", "a\n  {% raw %}\n  {{ x }}\n  {% endraw %}\n  b {{ n }}", "a {%- raw -%}  {{ x }}  {%- endraw -%}  b", "{%raw%}{%  end %}{% endraw x %}{%endraw%}{{ n }}", "  {%+ raw %}x{% endraw +%}\ny", "{% if t %}{% raw %}{% endif %}{% endraw %}{% endif %}", "{% raw %}{% endraw %}", "{% set x %}{% raw %}{{{% endraw %}{% endset %}{{ x }}", "{# {% raw %} #}{{ n }}{% raw %}{#{% endraw %}\n{#- c #}",
    "{{ l | sort }} {{ l | sort(reverse=true) }} {{ l | sort(true) }} {{ ['b', 'A', 'a', 'B'] | sort }} {{ ['b', 'A', 'a', 'B'] | sort(case_sensitive=true) }} {{ people | sort(attribute='age') | map(attribute='name') | join }} {{ people | sort(attribute='age', reverse=true) | map(attribute='name') | join }} {{ 'cab' | sort }} {{ d | sort }} {{ [] | sort }} {{ missing | sort }} {{ [[2, 'a'], [1, 'b'], [1]] | sort }} {{ [(2, 'a'), (1, 'b')] | sort }} {{ [2.5, 1, true] | sort }}",
    "{{ l | sum }} {{ [] | sum }} {{ [1, 2.5] | sum }} {{ people | sum(attribute='age') }} {{ l | sum(start=10) }} {{ [[1], [2]] | sum(start=[]) }} {{ people | sum('age', 1) }} {{ [true, true] | sum }}",
    "{{ [1, 2, 1, 1.0, true, 'a', 'A', 'a'] | unique | list }} {{ ['a', 'A'] | unique(true) | list }} {{ people | unique(attribute='age') | map(attribute='name') | list }} {{ 'banana' | unique | join }} {{ [(1, 2), (1, 2)] | unique | list }} {{ [none, none] | unique | list }}",
    "{{ l | max }} {{ l | min }} [{{ [] | max }}] {{ ['b', 'A'] | min }} {{ ['b', 'A', 'a', 'B'] | max }} {{ ['a', 'B'] | min(case_sensitive=true) }} {{ (people | max(attribute='age')).name }} {{ (people | min(attribute='age')).name }} {{ 'hello' | max }} {{ d | min }} {{ [1, 1.0] | max }} {{ [[1, 2], [1, 3]] | max }}",
    "{{ {'b': 1, 'A': 3, 'c': 2} | dictsort }} {{ {'b': 1, 'A': 3, 'c': 2} | dictsort(true) }} {{ {'b': 1, 'A': 3, 'c': 2} | dictsort(by='value') }} {{ {'b': 1, 'A': 3, 'c': 2} | dictsort(false, 'key', true) }} {% for k, v in {'y': 1, 'x': none} | dictsort %}{{ k }}{{ v }}{% endfor %} {{ {} | dictsort }}",
    "{{ (1, 2) == [1, 2] }} {{ [1, 2] == (1, 2) }} {{ (1, 2) == (1, 2) }} {{ (1, 2) != [1, 2] }} {{ [(1,)] == [[1]] }} {{ (1,) in [[1]] }} {{ (1,) in [(1,)] }} {{ d.items() | list == [('b', 1)] }} {{ {'a': 1}.items() | first == ('a', 1) }} {{ (3, 1, 2)[:2] }} {{ (3, 1, 2)[::-1] }} {{ (1,) + (2,) }} {{ [1, 2] < [1, 3] }} {{ (1, 2) < (1,) }} {{ [] < [0] }} {{ [1] <= [1] }}",
    "{{ [{'f': {'n': 'x', 'l': [7]}}, {'f': {'n': 'y', 'l': [8]}}] | map(attribute='f.n') | list }} {{ [{'f': {'n': 'x'}}] | selectattr('f.n', 'equalto', 'x') | list | length }} {{ [{'f': {'l': [7]}}] | map(attribute='f.l.0') | list }} {{ [[1, 2], [3, 4]] | map(attribute='1') | list }} {{ [{'f': {'n': 2}}, {'f': {'n': 1}}] | sort(attribute='f.n') }} {{ [{'a': {'b': 1}}] | join(',', attribute='a.b') }}",
]

SPACES = ["a\n{% if t %}\nb\n{% endif %}\nc\n", "a\n  {% if t %}\n  b\n  {% endif %}\n  c\n", "a  {%- if t %}  b  {%- endif %}  c", "a  {% if t -%}  \n b  {% endif -%}  \n c", "  {{ n }}  \n  {{- n -}}  \n  x",
          "  {%+ if t %} b {% endif %}", "{% if t +%}\nb{% endif %}", "a {# c #} b", "a\n  {# c #}\nb", "a\n  {#- c -#}\n  b", "{# {{ x }} {% y %} #}z", "x\n\n{% set a = 1 %}\n\n\ny\n\n", "\n", "\n\n", "a\r\nb\r{{ n }}\r\n", "  x {% if t %}y{% endif %}",
          "{{ n }}\n{{ n }}\n", "{% for x in l %}\n  {{ x }}\n{% endfor %}\n", "{%- for x in l -%}\n  {{ x }}\n{%- endfor -%}\n", " \t {% if t %}\t{% endif %}", "{% if t %}  {% if t %}x{% endif %}{% endif %}", "{% if t %}\n  {% if t %}x{% endif %}{% endif %}", "{{ n -}}\n  {% if t %}x{% endif %}",
          "{#a#}  {#b#}\n  {#c#}  {% set q = 1 %}x", "{ {{ n }} } {", "{", "", "{%if t%}x{%endif%}", "{{n}}", "\u00a0{%- if t %}x{% endif %}"]

ERRORS = ["{{ missing.x }}", "{{ missing['x'] }}", "{{ missing + 'a' }}", "{{ 'a' + 1 }}", "{{ 1 < 'a' }}", "{{ n / 0 }}", "{{ n % 0 }}", "{{ raise_exception('bad\nrole') }}", "{{ nothing() }}", "{{ s.nothing() }}", "{{ s | nothing }}", "{{ s is nothing }}", "{{ s() }}", "{{ none | tojson(", "{{ n", "a{# b", "{% if t %}",
          "{% for x in %}{% endfor %}", "{% for x in n %}{% endfor %}", "{% endif %}", "{% else %}", "{% if t %}{% endfor %}", "{% set %}", "{% set n.x = 1 %}", "{% set x %}", "{% for a, b in [[1]] %}{% endfor %}", "{{ }}", "{{ 1 2 }}", "{{ 'a }}", "{{ [1 }}", "{{ {1} }}", "{{ a. }}", "{{ l[ }}", "{{ x y }}", "{{ 1 | }}",
          "{% if %}x{% endif %}", "{% break %}", "{{ @ }}", "{{ missing() }}", "{{ 5 in 5 }}", "{{ 1 | length }}", "{{ d.items.x }}{{ d.q.r }}", "{% if t %}{% else %}{% else %}{% endif %}", "{{ not }}", "{{ l[::0] }}", "{{ range() }}", "{{ -'a' }}", "{% elif t %}", "{{ 'a' - 'b' }}",
          "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{% endmacro %}{{ m(b=1) }}", "{% macro m(a) %}{% endmacro %}{{ m(1, a=1) }}", "{% macro m(a=1, b) %}{% endmacro %}", "{% macro m %}{% endmacro %}", "{% macro m() %}", "{% macro m(1) %}{% endmacro %}", "{% for x in l %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}", "{% endmacro %}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ m() }}{% macro m() %}{% endmacro %}", "{% macro m() %}{{ a.b }}{% endmacro %}{{ m() }}",
          "{% raw %}x", "{% raw x %}{% endraw %}", "{% raw +%}{% endraw %}", "{% endraw %}", "{{ dict(a=1, 2) }}", "{{ range(*[1], 2) }}", "{{ range(*[1], *[2]) }}", "{{ range(*1) }}", "{{ range(*) }}", "{{ 1 | select | list }}", "{% macro m(*a) %}{% endmacro %}", "{{ [1, 'a'] | sort }}", "{{ [none, 1] | max }}", "{{ d | dictsort(by='x') }}", "{{ l | dictsort }}", "{{ ['a', 'b'] | sum }}", "{{ [] | sum(start='') }}", "{{ [[1]] | unique | list }}", "{{ n | sort }}", "{{ [1] + (2,) }}", "{{ [1] < (2,) }}", "{{ d | dictsort(by='value') }}"]


def render(source, variables):
    try:
        return {"expected": env.from_string(source).render(**variables)}
    except Exception as problem:
        return {"error": type(problem).__name__}


def write(name, rows):
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(r, ensure_ascii=True, separators=(",", ":")) for r in rows) + "\n]\n")


def conversations(source):
    base = dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
    return [{"variables": {**base, **c}, **render(source, {**base, **c})} for c in CONVERSATIONS]


for name in ("chatml", "llama3"):
    with open(os.path.join(HERE, name + ".jinja"), encoding="utf-8") as f:
        write(name + ".json", conversations(f.read()))
if len(sys.argv) > 1:
    with open(sys.argv[1], encoding="utf-8") as f:
        write("smollm2.json", conversations(f.read()))
rows = [{"template": t, **render(t, V)} for t in SNIPPETS + MACROS + SPACES]
for r in rows:
    assert "expected" in r or r["template"] == r
errors = [{"template": t, **render(t, V)} for t in ERRORS]
for r in errors:
    assert "error" in r, r
write("constructs.json", [{"variables": V}] + rows + errors)
print(len(rows), "constructs,", len(errors), "errors")
