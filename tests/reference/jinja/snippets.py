"""Snippets of Jinja, at least one for each name that Jinja and Python's str, list, tuple, dict, int and float bring along."""

TEXTS = ["''", "'a'", "'Hello World'", "'  two  words '", "'ÄÖß straße'", "'a,b,,c'", "'it\\'s A-b_c 1st'", "'12'", "'\\t1\\n2\\r\\n3'"]
CASES = ["upper", "lower", "title", "capitalize", "swapcase", "casefold", "strip", "lstrip", "rstrip", "split", "rsplit",
         "splitlines", "isspace", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower",
         "isnumeric", "isprintable", "istitle", "isupper"]

SNIPPETS = []


def add(*templates):
    SNIPPETS.extend(templates)


def show(*expressions):
    SNIPPETS.extend("{{ " + expression + " }}" for expression in expressions)


# Methods of str.
for method in CASES:
    show(" ~ '|' ~ ".join(f"{text}.{method}()" for text in TEXTS))
show(*(f"[{', '.join(f'{text}.{method}()' for text in TEXTS)}]" for method in ["isdecimal", "isdigit", "isnumeric", "istitle"]))
show("'²½Ⅷ٣'.isdigit()", "'²'.isdigit()", "'²'.isdecimal()", "'½'.isnumeric()", "'٣'.isdecimal()", "'Ⅷ'.isnumeric()",
     "'ǆ'.title()", "'ŉx'.upper()", "'ﬁx'.capitalize()", "'ΑΣ'.lower()", "'İ'.lower() | length", "'ß'.swapcase()",
     "'they\\'re bill\\'s'.title()", "'x-y z_w 3d'.title()", "'HELLO wORLD'.capitalize()", "'ΣΑΣ'.title()")
show("'xxaxx'.strip('x')", "'xyaxy'.lstrip('yx')", "'xyaxy'.rstrip('yx')", "' a '.strip(none)", "'a'.strip(chars='a')",
     "'a'.strip(1)", "'a'.strip('a', 'b')", "'\\x1fa\\x1c'.strip()", "'\\u200ba'.strip() | length")
show("'a b c'.split(' ', 1)", "'a b c'.split(none, 1)", "' a  b  c '.split(none, 1)", "'a,b,c'.split(',', maxsplit=1)",
     "'a,b,c'.split(sep=',')", "'abc'.split('')", "'a,b'.split(1)", "'a b c'.rsplit(none, 1)", "' a  b  c '.rsplit(none, 1)",
     "'a,b,c'.rsplit(',', maxsplit=1)", "'a,b,c'.rsplit(',')", "'a b c'.rsplit(maxsplit=0)", "' a b '.split(maxsplit=0)",
     "'aXXbXXc'.rsplit('XX', 1)", "'a,b,c'.split(',', -1)", "'a,b,c'.split(',', true)", "'a,b,c'.split(',', 1.0)",
     "'a b'.rsplit('')", "''.split()", "''.split(',')", "''.rsplit(',')", "'a\\u2003b'.split()")
show("'a\\nb\\r\\nc\\x0bd\\x85e\\u2028f'.splitlines()", "'a\\nb\\n'.splitlines(true)", "'a\\nb'.splitlines(keepends=true)",
     "'a\\n\\nb\\n'.splitlines()", "'a'.splitlines(1)", "'a'.splitlines('x')")
show("'aba'.replace('a', 'x')", "'aba'.replace('a', 'x', 1)", "'aba'.replace('', '-')", "'aba'.replace('', '-', 2)",
     "'aba'.replace('a', 'x', -1)", "'aba'.replace('a', 'x', count=1)", "'aba'.replace('a')", "'aba'.replace(1, 'x')",
     "''.replace('', 'x')", "'aba'.replace('a', 'x', 0)")
show("'abcabc'.find('c')", "'abcabc'.find('c', 3)", "'abcabc'.find('c', 3, 5)", "'abcabc'.find('z')", "'äbc'.find('c')",
     "'abc'.find('')", "'abc'.find('', 3)", "'abc'.find('', 4)", "'abc'.find('c', -1)", "'abcabc'.rfind('c')",
     "'abcabc'.rfind('c', 0, 5)", "'abc'.rfind('')", "'äbcb'.rfind('b')", "'abc'.index('b')", "'abc'.index('z')", "'abc'.rindex('b')",
     "'abcb'.rindex('b')", "'abc'.rindex('z')", "'abc'.find(1)", "'aXa'.count('a')", "'aaaa'.count('aa')", "'abc'.count('')",
     "'abcabc'.count('c', 3)", "'abcabc'.count('a', 0, 3)", "'abc'.find('b', none, none)", "'abc'.index('b', 1)")
show("'abc'.startswith('a')", "'abc'.startswith(('x', 'a'))", "'abc'.startswith('b', 1)", "'abc'.startswith('b', 1, 2)",
     "'abc'.startswith(['a'])", "'abc'.startswith('')", "'abc'.startswith(())", "'abc'.endswith('c')", "'abc'.endswith(('x', 'c'))",
     "'abc'.endswith('b', 0, 2)", "'abc'.endswith(1)", "'abc'.endswith('')", "'abc'.endswith('abcd')", "'abc'.startswith('bc', -2)")
show("'abc'.removeprefix('a')", "'abc'.removeprefix('b')", "'abc'.removesuffix('c')", "'abc'.removesuffix('b')",
     "'abc'.removeprefix('')", "'abc'.removesuffix('')", "'abc'.removeprefix(1)", "'abc'.removeprefix()")
show("'a-b-c'.partition('-')", "'a-b-c'.rpartition('-')", "'abc'.partition('-')", "'abc'.rpartition('-')", "'a'.partition('')",
     "'a'.partition()", "'a-b'.partition('-')[2]", "'a-b'.partition('-') | list")
show("'a'.center(4)", "'ab'.center(5)", "'abc'.center(6)", "'a'.center(4, '*')", "'a'.center(0)", "'a'.center(4, '**')", "'a'.center()",
     "'7'.zfill(3)", "'-7'.zfill(4)", "'+7'.zfill(4)", "''.zfill(2)", "'abc'.zfill(2)", "'--1'.zfill(5)", "'a'.ljust(3)", "'a'.ljust(3, '.')",
     "'a'.rjust(3)", "'a'.rjust(3, '.')", "'ä'.rjust(3, 'ö')", "'a'.ljust(-1)", "'a'.rjust('3')", "'a'.ljust(3, '')", "'a'.ljust(2.0)")
show("'a\\tb'.expandtabs()", "'a\\tb'.expandtabs(4)", "'a\\tb\\n\\tc'.expandtabs(2)", "'a\\tb'.expandtabs(0)", "'a\\tb'.expandtabs(tabsize=3)",
     "'\\t'.expandtabs(-1) | length")
show("'abc'.encode()", "'ä'.encode()", "'ä'.encode('utf-8')", "'ä'.encode('latin-1')", "'ä'.encode('ascii', 'ignore')", "'abc'.encode() | length",
     "'abc'.encode().decode()", "\"it's\".encode()", "'\\n\\x00'.encode()", "'abc'.encode() | list")
show("','.join(['a', 'b'])", "''.join([])", "','.join('abc')", "','.join(['a', 1])", "','.join({'a': 1, 'b': 2})", "','.join(('x',))",
     "','.join(none)", "', '.join(['a'] | map('upper'))", "','.join([none])", "','.join(1)", "'-'.join(range(3) | map('string'))")
show("'abc'.translate({97: 'x'})", "'abc'.translate({97: none})", "'abc'.translate({97: 98})", "'abc'.translate({'a': 'x'})",
     "''.maketrans('ab', 'xy')", "'abc'.translate(''.maketrans('ab', 'xy'))", "'abc'.maketrans({'a': 'b'})")
show("'{} {}'.format(1, 'a')", "'{0}{1}{0}'.format('a', 'b')", "'{a}'.format(a=1)", "'{:>5}|{:<5}|{:^5}'.format('a', 'b', 'c')",
     "'{:05d}'.format(42)", "'{:.2f}'.format(3.14159)", "'{:,}'.format(1234567)", "'{:x} {:X} {:o} {:b}'.format(255, 255, 8, 5)",
     "'{:e}'.format(12345.678)", "'{:g} {:g}'.format(0.00001, 1e20)", "'{:%}'.format(0.25)", "'{!r}'.format('a')", "'{!s:>4}'.format('a')",
     "'{{}}'.format()", "'{a[0]} {a[1]}'.format(a=[1, 2])", "'{a[k]}'.format(a={'k': 1})", "'{:*^7}'.format('mid')", "'{:+d} {: d}'.format(1, 2)",
     "'{:#x}'.format(255)", "'{:>{w}}'.format('a', w=4)", "'{}'.format()", "'{'.format(1)", "'{:d}'.format('a')", "'{:.1%}'.format(0.123)",
     "'{:.3}'.format('abcdef')", "'{} {1}'.format(1, 2)", "'{}'.format(none)", "'{}'.format([1, 'a'])", "'{:>8.3f}|'.format(2.5)", "'{:_}'.format(1234567)",
     "'{:c}'.format(97)", "'{:s}'.format(1)", "'{}'.format(1.0)", "'{}'.format(true)", "'{:d}'.format(true)", "'{:5}|'.format(true)", "'{:n}'.format(5)",
     "'{a}'.format_map({'a': 1})", "'{b}'.format_map({'a': 1})", "'{a.real}'.format(a=1)", "'{:>5}'.format([1])", "'{:}'.format(1e22)", "'{:.0f}'.format(0.5)",
     "'{:.3g}'.format(1234.5)", "'{:010.2f}'.format(-3.14159)", "'{:=+8d}'.format(5)")
# % formatting.
show("'%s' % 'x'", "'%s %s' % ('a', 1)", "'%d' % 3.7", "'%5d|%-5d|%05d' % (1, 2, 3)", "'%.2f' % 3.14159", "'%x %X %o' % (255, 255, 8)",
     "'%e' % 12345.678", "'%g' % 0.00001", "'%g' % 123456789.0", "'%%' % ()", "'%s%%' % 5", "'%(a)s' % {'a': 1}", "'%(a)d-%(b)s' % {'a': 1, 'b': 'x'}",
     "'%r' % 'a'", "'%s' % none", "'%s' % [1, 2]", "'%s' % {'a': 1}", "'%d' % 'x'", "'%s %s' % 'x'", "'%s' % ('a', 'b')", "'%c' % 97", "'%c' % 'a'",
     "'%+d % d' % (1, 2)", "'%#x' % 255", "'%.3s' % 'abcdef'", "'%5s|%-5s|' % ('a', 'b')", "'%*d' % (5, 3)", "'%i %u' % (1, 2)", "'%y' % 1", "'%' % 1",
     "'%(a)s' % 1", "'%s' % (1,)", "'%s' % ((1, 2),)", "'abc' % ()", "'abc' % 1", "'abc' % {}", "'abc' % [1]", "'%s' % 1.0", "'%.0f' % 2.5", "'%a' % 'ä'", "'%s' % true",
     "'%d' % true", "'%G' % 1e-10", "'%08.3f' % -3.14159", "'%5%' % ()", "'a' * 3 % ()")
# Filter `format`.
show("'%s and %s' | format('a', 'b')", "'%(a)s' | format(a=1)", "'%s' | format", "'%d' | format('x')", "'%s' | format(1, a=2)", "'%.2f' | format(1)")

# Methods of list, tuple, dict.
show("[3, 1, 2].index(1)", "[3, 1].index(7)", "[1, 2, 1].count(1)", "[1].copy()", "[1].append(2)", "[1].extend([2])", "[1].insert(0, 2)", "[1].pop()",
     "[1].remove(1)", "[1].reverse()", "[2, 1].sort()", "[1].clear()", "[1, 2, 1].index(1, 1)", "[1, true, 1.0].count(1)", "(1, 2, 1).count(1)", "(1, 2).index(2)",
     "(1, 2).index(3)", "[1, 2].index('1')", "[[1], [2]].index([2])", "[1].nothing()", "[1].index()")
show("{'a': 1}.items()", "{'a': 1}.keys()", "{'a': 1}.values()", "{'a': 1}.items() | list", "{'a': 1}.keys() | list", "{'a': 1}.values() | list",
     "{'a': 1}.get('a')", "{'a': 1}.get('b')", "{'a': 1}.get('b', 2)", "{'a': 1}.get('a', default=2)", "{'a': 1}.get()", "{'a': 1}.get([])",
     "{'a': 1}.copy()", "{'a': 1}.pop('a')", "{'a': 1}.update({'b': 2})", "{'a': 1}.clear()", "{'a': 1}.popitem()", "{'a': 1}.setdefault('a', 2)",
     "{}.fromkeys(['a', 'b'])", "{}.fromkeys(['a'], 1)", "{'items': 1}.items()", "{'items': 1}.items() | list", "{'items': 1}['items']",
     "{'get': 1}.get('get')", "{'x': {'y': 1}}.x.y", "{'a': 1}.a", "{'a': 1}['a']", "{1: 2}[1]", "{1: 2}['1']", "{1.0: 2}[1]", "{true: 2}[1]", "{'a': 1}.b",
     "{'a': 1}['b']", "{none: 1}[none]", "{(1, 2): 3}[(1, 2)]", "{[1]: 2}", "{'a': 1, 'a': 2}", "{'b': 1, 'a': 2}", "{'a': 1}.items() | length", "'a' in {'a': 1}.keys()",
     "1 in {'a': 1}.values()", "('a', 1) in {'a': 1}.items()", "{'a': 1}.keys()[0]", "{'a': 1} == {'a': 1.0}", "{'a': 1}.has_key('a')")
add("{% if {}['items'] %}yes{% else %}no{% endif %}", "{% if {}.items %}yes{% else %}no{% endif %}", "{% if {'items': 0}['items'] %}yes{% else %}no{% endif %}",
    "{% if {'items': 0}.items %}yes{% else %}no{% endif %}", "{{ {}.items is defined }} {{ {}['keys'] is callable }} {{ {}.foo is defined }}",
    "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in {'b': 1, 'a': 2} %}{{ k }}{% endfor %}",
    "{{ 'abc'.upper is defined }}{{ 'abc'.nothing is defined }}{{ [].append is defined }}", "{{ 'abc'.upper is callable }}",
    "{% set f = 'abc'.upper %}{{ f() }}", "{% set get = {'a': 1}.get %}{{ get('a') }}{{ get('b', 2) }}", "{{ 'a'['upper']() }}", "{{ {'f': 1}.f() }}")
show("1.real", "(1).real", "1.5.is_integer()", "(1.5).is_integer()", "(2.0).is_integer()", "(5).bit_length()", "(1).denominator", "(-5).bit_length()", "(1.5).real",
     "(1.5).hex()", "(1.5).as_integer_ratio()", "(5).bit_count()", "(5).to_bytes(2, 'big')", "true.real", "(1).conjugate()", "(1).foo")

# Attributes that Python has and the sandbox hides.
show("''.__class__", "'a'.__len__()", "[].__class__ is defined", "messages.__class__", "x.__init__", "''.__doc__ is defined", "{}.__getitem__", "{'__a': 1}.__a", "{'__class__': 1}['__class__']",
     "''['__class__']", "'' | attr('__class__')")

# Filters.
show("-3 | abs", "3.5 | abs", "'x' | abs", "true | abs", "-0.0 | abs")
show("messages[0] | attr('role')", "'a' | attr('upper')", "'a' | attr('nothing')", "foo | attr('x')", "[] | attr('x') is defined", "'a' | attr(1)")
show("[1, 2, 3, 4, 5] | batch(2)", "[1, 2, 3, 4, 5] | batch(2) | list", "[1, 2, 3] | batch(2, 'x') | list", "[1, 2, 3] | batch(linecount=2, fill_with=0) | list", "[] | batch(2) | list",
     "[1] | batch(0) | list", "'abc' | batch(2) | list")
show("'hello World' | capitalize", "12 | capitalize", "none | capitalize", "'' | capitalize")
show("'a' | center", "'a' | center(5)", "'ab' | center(width=5)", "12 | center(6)", "'abc' | center(2)")
show("foo | default('x')", "'' | default('x')", "'' | default('x', true)", "'' | default('e', boolean=true)", "foo | default", "none | default('x')", "none | d('x', true)", "foo.bar | default('x')",
     "foo | default(default_value='y')", "0 | d(1, boolean=1)", "foo | default(1, 2, 3)", "[] | d('x', true)", "messages[0].foo | d('x')", "foo | d")
show("{'b': 1, 'A': 2} | dictsort", "{'b': 1, 'A': 2} | dictsort(true)", "{'b': 1, 'A': 2} | dictsort(by='value')", "{'b': 1, 'a': 2} | dictsort(reverse=true)", "{'b': 2, 'a': 1} | dictsort(false, 'value', true)",
     "{'b': 1} | dictsort(by='x')", "[1] | dictsort", "{1: 2, 'a': 3} | dictsort", "{'a': 'B', 'b': 'a'} | dictsort(by='value')", "{'a': 'B', 'b': 'a'} | dictsort(case_sensitive=true, by='value')")
show("'<a>' | escape", "'<a> & \"q\" \\'s\\'' | e", "1 | escape", "'<a>' | escape | escape", "none | e", "'<' | e ~ '<'", "'<' | e == '&lt;'", "('<' | e) + '<'", "'<' | forceescape", "('<' | e) | forceescape",
     "'<' | e | upper", "('<' | e) is escaped", "'<' is escaped", "'<' | safe is escaped", "('<' | safe) | escape", "['<'] | e", "('<b>' | e) | length", "('<' | e).replace('&', '>')", "[('<' | e)]",
     "'<' + ('<' | safe)", "('<' | safe) + ('<' | safe)", "(('<' | e) + '<') is escaped", "'a' + '<' + ('<' | safe) + '>'", "('<' | safe) + 1", "1 + ('<' | safe)", "('<' | safe) * 2", "2 * ('<' | safe) + '<'",
     "('<' | safe) ~ '<' + '>'", "('a' | safe) * -1", "('<' | safe) + none", "('<' | safe) + tools | tojson", "'<' + (messages | tojson | safe)")
show("1000 | filesizeformat", "1 | filesizeformat", "0 | filesizeformat", "999 | filesizeformat", "1500000 | filesizeformat", "1024 | filesizeformat(true)", "1e15 | filesizeformat", "'1000' | filesizeformat",
     "1023 | filesizeformat(binary=true)", "'x' | filesizeformat", "1e30 | filesizeformat", "-5 | filesizeformat", "1.5 | filesizeformat")
show("[1, 2] | first", "[] | first", "'abc' | first", "'' | first", "{'a': 1} | first", "none | first", "[] | first is defined", "range(3) | first", "foo | first", "(1, 2) | first")
show("'1.5' | float", "'x' | float", "'x' | float(2.5)", "'x' | float(default=1)", "3 | float", "none | float", "' 1e3 ' | float", "'1_000' | float", "'inf' | float", "'nan' | float", "[] | float", "'0x10' | float", "true | float",
     "'1,5' | float", "foo | float", "'x' | float(none)", "'1e400' | float", "'.5' | float", "'5.' | float", "'Infinity' | float", "'+1' | float")
show("[{'a': 1, 'b': 2}, {'a': 1, 'b': 3}, {'a': 2, 'b': 4}] | groupby('a')", "[{'a': 1, 'b': 2}, {'a': 1, 'b': 3}] | groupby('a') | list", "[{'a': 'X'}, {'a': 'x'}] | groupby('a')", "[{'a': 'X'}, {'a': 'x'}] | groupby('a', case_sensitive=true)",
     "[{'b': 1}] | groupby('a', default='n')", "[[1, 2], [1, 3]] | groupby(0)", "[{'a': {'b': 1}}] | groupby('a.b')", "[{'a': 1}, {}] | groupby('a')")
add("{% for g in [{'a': 2}, {'a': 1}] | groupby('a') %}{{ g.grouper }}{{ g.list }}{{ g[0] }}{% endfor %}", "{% for k, v in messages | groupby('role') %}{{ k }}{{ v | length }}{% endfor %}")
show("'a\\nb\\n\\nc' | indent", "'a\\nb' | indent(2)", "'a\\nb' | indent(2, true)", "'a\\n\\nb' | indent(2, blank=true)", "'a\\nb' | indent('> ')", "'a\\nb' | indent(width='--', first=true)", "'a\\nb\\n' | indent(2)", "'' | indent(2, true)", "'a\\r\\nb' | indent(2)",
     "1 | indent", "'a\\n\\nb' | indent(2, true, true)", "'a\\nb' | indent(-1)", "'a\\x0bb' | indent(1)", "none | indent")
show("'12' | int", "'x' | int", "'x' | int(5)", "'x' | int(default=7)", "3.9 | int", "-3.9 | int", "'3.9' | int", "'0x1f' | int(0, 16)", "'1f' | int(base=16)", "'0b11' | int(0, 2)", "'077' | int(0, 8)", "none | int", "true | int", "' 12 ' | int", "'1_000' | int", "[] | int", "'1e3' | int",
     "foo | int", "'inf' | float | int", "'99999999999999999999999' | int", "'-0x1f' | int(0, 16)", "'zz' | int(0, 36)", "'12' | int(0, 0)", "'-12' | int", "'+5' | int", "1e20 | int", "'٣' | int", "none | int(4)", "'nan' | float | int(3)", "'9' | int(0, 8)")
show("{'a': 1} | items", "{'a': 1} | items | list", "foo | items | list", "[1] | items | list", "none | items | list")
show("['a', 'b'] | join", "['a', 'b'] | join(', ')", "[1, none, 1.5, true] | join('-')", "[{'n': 'x'}, {'n': 'y'}] | join(',', attribute='n')", "'abc' | join('-')", "{'a': 1, 'b': 2} | join", "[] | join(',')", "none | join", "[[1], 'a'] | join", "(1, 2) | join('+')", "range(3) | join(',')", "['a', 'b'] | join(d='-')", "[1, 2] | join(1)",
     "foo | join", "[1] | join(none)", "[[1, 2], [3, 4]] | join(',', 1)", "['a', 'b'] | join(attribute='upper')")
show("[1, 2] | last", "[] | last", "'abc' | last", "{'a': 1, 'b': 2} | last", "range(3) | last", "none | last", "foo | last", "[] | last is defined", "([1, 2] | map('string')) | last")
show("[1] | length", "'äb' | length", "{} | length", "none | length", "1 | length", "foo | length", "range(5) | length", "[1] | count", "([1] | map('string')) | length", "(1, 2) | length", "{'a': 1}.items() | count", "true | length")
show("'abc' | list", "{'a': 1} | list", "none | list", "(1, 2) | list", "range(3) | list", "1 | list", "foo | list", "[1, 2] | map('string') | list")
show("'ABC' | lower", "1 | lower", "none | lower", "[1, 'A'] | lower", "true | lower", "'ABC' | upper", "1.5 | upper", "none | upper", "'ß' | upper", "foo | upper")
show("['a', 'b'] | map('upper') | list", "[{'a': 1}] | map(attribute='a') | list", "[{'a': 1}, {}] | map(attribute='a', default=0) | list", "[{'a': {'b': 1}}] | map(attribute='a.b') | list", "[[1, 2]] | map('first') | list", "[[1, 2]] | map(attribute=0) | list", "['a'] | map('replace', 'a', 'b') | list",
     "['1'] | map('int') | list", "['x'] | map('int', default=3) | list", "[1] | map | list", "['a'] | map('nothing') | list", "['a'] | map('upper')", "'ab' | map('upper') | join", "[{}] | map(attribute='x') | list", "{'a': 1} | map('upper') | list", "none | map('upper') | list", "foo | map('upper') | list",
     "[[1, 2]] | map(attribute='1') | list", "[3, 1] | map('string') | join(',')", "[messages] | map('length') | list", "[{'a': 1}] | map(attribute='items') | list | length", "['a'] | map('upper', 1) | list", "[{'a': [{'b': 5}]}] | map(attribute='a.0.b') | list")
show("[3, 1, 2] | max", "[3, 1, 2] | min", "['b', 'A'] | max", "['b', 'A'] | min", "['b', 'A'] | min(case_sensitive=true)", "['b', 'A'] | max(true)", "[] | max", "[] | min", "[{'a': 1}, {'a': 2}] | max(attribute='a')", "[{'a': 1}, {'a': 2}] | min(attribute='a')", "[1, 'a'] | max", "'abc' | max", "{'a': 1, 'b': 2} | max", "[1, 2.5] | max", "[true, 0] | min", "[none, 1] | min", "[[1, 2], [1]] | max", "[] | max is defined", "[1, 1.0] | max", "[1, 1.0] | min")
show("{'a': [1, 'x'], 'b': none} | pprint", "'a' | pprint", "1.5 | pprint", "[] | pprint", "{'b': 1, 'a': 2} | pprint", "range(30) | list | pprint", "['aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb'] | pprint", "(1,) | pprint",
     "{'kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk': 'aaaaaaaaaaaaaaaaaaaaaaaaaa', 'lllllllllllllllllll': ['bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'cccccccccccccccccc']} | pprint")
show("['a'] | random", "'a' | random", "[1, 2, 3, 4, 5, 6, 7, 8, 9] | random", "[] | random", "[] | random is defined", "1 | random")
show("[1, 2, 3, 4] | reject('odd') | list", "[1, 2, 3] | reject('equalto', 2) | list", "[0, 1, ''] | reject | list", "[{'a': 1}, {'a': 0}] | rejectattr('a') | list", "[{'a': 1}, {'a': 2}] | rejectattr('a', 'equalto', 1) | list", "[{'a': 1}, {}] | rejectattr('a', 'defined') | list",
     "[1, 2, 3, 4] | select('odd') | list", "[1, 2, 3] | select('>', 1) | list", "[0, 1, ''] | select | list", "[{'a': 1}, {'a': 0}] | selectattr('a') | list", "[{'a': 1}, {'a': 2}] | selectattr('a', 'eq', 1) | list", "[{'a': 1}, {}] | selectattr('a', 'defined') | list", "[1] | select('nothing') | list",
     "[{'a': {'b': 1}}] | selectattr('a.b', '==', 1) | list", "[1, 2] | select('even')", "messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list", "['a', 1] | select('string') | list", "[{'a': 1}] | selectattr('a', 'in', [1, 2]) | list", "none | select | list", "foo | select | list", "[[0, 1], [1, 1]] | selectattr(0) | list", "[1, 2, 3] | select('divisibleby', 2) | list",
     "[1] | selectattr | list", "[1, 2] | select('lessthan', 2) | list", "messages | rejectattr('role', 'in', ['user']) | list", "['1', 'a'] | select('nothing', 1) | list | length", "[3, none] | select('none') | list", "messages | selectattr('x') | list")
show("'aba' | replace('a', 'x')", "'aba' | replace('a', 'x', 1)", "'aba' | replace('a', 'x', count=1)", "121 | replace('1', 'x')", "121 | replace(1, 2)", "none | replace('o', 'x')", "'aba' | replace('a')", "'aba' | replace(old='a', new='b')", "foo | replace('a', 'b')", "'a' | replace('', '-')", "'a' | replace(none, 'b')")
show("[1, 2] | reverse | list", "'abc' | reverse", "[1, 2] | reverse", "{'a': 1, 'b': 2} | reverse | list", "none | reverse", "1 | reverse", "(1, 2) | reverse | list", "range(3) | reverse | list", "'äb' | reverse", "(['a'] | map('upper')) | reverse | list", "foo | reverse")
show("2.5 | round", "3.5 | round", "-2.5 | round", "42.55 | round(1)", "42.55 | round(1, 'floor')", "42.51 | round(method='ceil')", "42 | round", "1234.5 | round(-2)", "1.005 | round(2)", "'x' | round", "42.5 | round(0, 'x')", "2.675 | round(2)", "0.5 | round | int", "1e300 | round", "none | round", "true | round", "1234 | round(-2, 'floor')", "-1.5 | round(0, 'ceil')", "5 | round(1, 'ceil')", "0.1 | round(20)")
show("'<a>' | safe", "1 | safe", "none | safe", "['a'] | safe")
show("[1, 2, 3, 4, 5] | slice(2)", "[1, 2, 3, 4, 5] | slice(2) | list", "[1, 2, 3, 4, 5] | slice(3, 'x') | list", "[1] | slice(3) | list", "'abc' | slice(2) | list", "[1, 2] | slice(0) | list", "[1, 2, 3] | slice(slices=2, fill_with=0) | list")
show("[3, 1, 2] | sort", "['b', 'A', 'c'] | sort", "['b', 'A', 'c'] | sort(case_sensitive=true)", "[3, 1, 2] | sort(reverse=true)", "[{'a': 2}, {'a': 1}] | sort(attribute='a')", "[{'a': 2, 'b': 1}, {'a': 1, 'b': 2}, {'a': 1, 'b': 1}] | sort(attribute='a,b')", "'bca' | sort", "{'b': 1, 'a': 2} | sort", "[1, 'a'] | sort", "[none, 1] | sort", "[true, 0] | sort", "[1.5, 1] | sort", "[[2], [1, 5]] | sort",
     "[(2, 'a'), (1, 'b')] | sort", "[{'a': 1}, {'a': 2}] | sort", "none | sort", "[{'a': 'b'}, {'a': 'A'}] | sort(attribute='a') | map(attribute='a') | list", "[3, 1] | sort(true)", "[] | sort", "[{}, {'a': 1}] | sort(attribute='a')", "['b', 'A'] | sort(true, true)", "[[1, 'x'], [0, 'y']] | sort(attribute=0)", "['ä', 'z', 'a'] | sort", "foo | sort", "[{}] | sort")
show("1 | string", "none | string", "[1, 'a'] | string", "1.0 | string", "'a' | string", "true | string", "foo | string", "{'a': 1} | string", "1e22 | string | length")
show("'<b>x</b> &amp; y' | striptags", "'a <!-- c --> b' | striptags", "' a \\n  b ' | striptags", "1 | striptags", "'&lt;b&gt; &#39;&#x41; &nbsp;x' | striptags", "'a < b' | striptags", "'<p>a</p><p>b</p>' | striptags")
show("[1, 2, 3] | sum", "[] | sum", "[1, 2] | sum(start=10)", "[{'a': 1}, {'a': 2}] | sum(attribute='a')", "[1.5, 2] | sum", "['a'] | sum", "[[1], [2]] | sum(start=[])", "[{'a': 1}] | sum('a', 5)", "[true, 2] | sum", "none | sum", "[0.1, 0.2, 0.3] | sum", "['a', 'b'] | sum(start='')", "foo | sum")
show("\"it's\" | title", "'hello world' | title", "'foo-bar (baz) [x] {y} <z>' | title", "'HELLO' | title", "1 | title", "'a1b 2nd' | title", "'ß' | title", "none | title", "'x_y' | title")
show("messages | tojson", "{'a': [1, 2.0, none, true, 'ä<>&\\'']} | tojson", "{none: 1} | tojson", "{1: 2, 1.5: 3, true: 4} | tojson", "[1e-05, 1e16, 1e22, 0.1, 100.0, -0.0] | tojson", "{'a': 1} | tojson(2)", "{'a': 1} | tojson(indent=2)", "{'b': 1, 'a': 2} | tojson(sort_keys=true)", "'ä' | tojson(ensure_ascii=true)", "'😀' | tojson(true)", "{'a': [], 'b': {}} | tojson(indent=4)",
     "[1, [2]] | tojson(indent='--')", "[1, 2] | tojson(separators=(',', ':'))", "(1, 2) | tojson", "foo | tojson", "range(3) | tojson", "'\\u2028\\x7f\\x00' | tojson", "[1, 2] | tojson(indent=0)", "{'a': 1} | tojson(indent=none)", "('nan' | float) | tojson", "[('inf' | float), -('inf' | float)] | tojson", "{(1, 2): 3} | tojson", "[1] | tojson(indent=-1)", "[1] | tojson(foo=1)", "[1, 2] | tojson(indent=1, separators=[',', ': '])",
     "{'a': 1}.items() | tojson", "{'a': 1}.items() | list | tojson", "['a'] | map('upper') | tojson", "{'b': 1, 1: 2} | tojson(sort_keys=true)", "{'b': {'d': 1, 'c': 2}, 'a': 0} | tojson(sort_keys=true, indent=1)", "{'x': ('<' | e)} | tojson", "raise_exception | tojson", "1e400 | tojson", "('a' | safe) | tojson", "{'a': 1} | tojson(false, 2)", "[true, false] | tojson(indent=true)", "99999999999999999999999999 | tojson", "1.0 | tojson", "true | tojson", "none | tojson", "'a\"b\\\\c' | tojson")
show("'  a ' | trim", "'xax' | trim('x')", "1 | trim", "none | trim", "'xax' | trim(chars='x')", "'\\x1fa' | trim", "[' a'] | trim", "foo | trim", "' a ' | trim(none)")
show("'foo bar baz qux' | truncate(9)", "'foo bar baz qux' | truncate(9, true)", "'foo bar baz qux' | truncate(11)", "'foo bar baz qux' | truncate(11, false, '...', 0)", "'foo bar' | truncate", "'foo bar baz qux' | truncate(5, end='!')", "'foo bar baz qux' | truncate(5, leeway=0)", "'foobar' | truncate(2)", "1234567890123 | truncate(5, true)", "'abc def ghi' | truncate(length=7, killwords=false, end='…', leeway=0)", "'äöü äöü äöü' | truncate(6, leeway=0)", "'abcdef' | truncate(3, true, '...', 0)", "'aaaaaaaaaa' | truncate(5, false, '...', 0)")
show("[1, 1, 2] | unique | list", "['a', 'A'] | unique | list", "['a', 'A'] | unique(case_sensitive=true) | list", "[{'a': 1}, {'a': 1}] | unique(attribute='a') | list", "[1, true, 1.0] | unique | list", "'aab' | unique | join", "[[1]] | unique | list", "none | unique | list", "[1, 1] | unique", "[{'a': 1}, {'a': 1}] | unique | list", "[(1, 2), (1, 2)] | unique | list")
show("'a b/c?d=é&f' | urlencode", "{'a': 1, 'b': 'x y'} | urlencode", "[('a', 1), ('b', '/')] | urlencode", "'' | urlencode", "1 | urlencode", "{'a': none} | urlencode", "'~-_.!*()' | urlencode", "none | urlencode", "[1] | urlencode", "{'ä b': 'ü/+'} | urlencode", "{'a': [1, 2]} | urlencode")
show("'see http://example.com now' | urlize", "'www.example.com' | urlize", "'a@b.com' | urlize", "'plain' | urlize")
show("'a b c' | wordcount", "'' | wordcount", "'it\\'s two-words' | wordcount", "123 | wordcount", "none | wordcount", "'ä_b 1' | wordcount", "[1, 2] | wordcount")
show("'aaa bbb ccc ddd' | wordwrap(7)", "'aaaaaaaaaa bb' | wordwrap(4)", "'aaaaaaaaaa bb' | wordwrap(4, false)", "'a b c' | wordwrap(1, wrapstring='|')", "'aaa bbb\\nccc' | wordwrap(5)", "'aaa-bbb ccc' | wordwrap(5)", "'aaa-bbb ccc' | wordwrap(5, break_on_hyphens=false)", "'' | wordwrap(5)", "'short' | wordwrap", "'one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen' | wordwrap", "'a\\n\\nb' | wordwrap(3)", "'aa  bb   cc' | wordwrap(4)", "'well-known re-use co-op' | wordwrap(8)", "'  lead ing' | wordwrap(4)", "'x--y z---w' | wordwrap(3)")
show("{'class': 'a b', 'id': none, 'x': 1} | xmlattr", "{} | xmlattr", "{'a': '<\">'} | xmlattr(false)", "{'a b': 1} | xmlattr", "{'a': foo} | xmlattr", "[1] | xmlattr", "{'a': true} | xmlattr", "{'a>': 1} | xmlattr")

# Tests.
VALUES = ["none", "true", "false", "0", "1", "-1", "1.5", "1.0", "''", "'a'", "'AB'", "'ab'", "[]", "[1]", "()", "(1,)", "{}", "{'a': 1}", "foo", "range(3)", "range", "([1] | map('abs'))", "messages", "raise_exception", "'a'.upper", "('a' | safe)", "namespace()", "dict", "{}.items()"]
TESTS = ["boolean", "callable", "defined", "escaped", "even", "false", "float", "integer", "iterable", "lower", "mapping", "none", "number", "odd", "sequence", "string", "true", "undefined", "upper"]
for test in TESTS:
    if test in ("even", "odd"):
        show(*(f"{value} is {test}" for value in ["1", "2", "-1", "1.5", "2.0", "true", "'a'", "none", "foo", "'%d'"]))
    elif test in ("lower", "upper"):
        # Objects that are written with their address.
        show(" ~ ".join(f"({value} is {test})" for value in VALUES if "range" not in value and "map(" not in value and value not in ("raise_exception", "'a'.upper", "dict")))
        show(f"range is {test}", f"([1] | map('abs')) is {test}", f"'a'.upper is {test}")
    else:
        show(" ~ ".join(f"({value} is {test})" for value in VALUES))
        show(f"1 is not {test}")
show("10 is divisibleby(5)", "10 is divisibleby 3", "10 is divisibleby(0)", "'a' is divisibleby(2)", "10.0 is divisibleby 5", "1 is eq(1)", "1 is eq 1.0", "1 is equalto(2)", "1 is ==(1)", "1 is sameas(1)", "true is sameas(true)", "1 is sameas(true)", "none is sameas none", "'a' is sameas('a')", "1.0 is sameas(1)", "[] is sameas([])",
     "1 is ne(2)", "1 is ne 1", "2 is gt(1)", "2 is greaterthan(1)", "1 is ge(1)", "1 is ge 2", "1 is lt(2)", "1 is lessthan 2", "1 is le(1)", "1 is le(0)", "'a' is lt 'b'", "'a' is gt 1", "none is lt 1", "1 is in([1])", "1 is in [1, 2]", "'a' is in 'abc'", "1 is in 1", "1 is in none", "'upper' is filter", "'nothing' is filter", "'odd' is test", "'nothing' is test", "1 is nothing",
     "foo is eq 1", "foo is defined and true", "1 is defined is true", "not 1 is odd", "1 is not odd", "foo is in [1]", "'a' is in {'a': 1}", "[1] is eq([1])", "(1,) is eq [1]", "1 is filter", "'tojson' is filter", "'none' is test", "1 is number or false")

# Globals.
add("{% set j = joiner(',') %}{{ j() }}{{ j() }}{{ j() }}", "{% set j = joiner() %}{{ j() }}a{{ j() }}b", "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{% set _ = c.reset() %}{{ c.current }}", "{{ cycler() }}",
    "{% set c = cycler(1) %}{{ c.next() }}", "{% set j = joiner(sep='-') %}{{ j() }}{{ j() }}", "{% for x in [1, 2, 3] %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% set c = cycler('a', 'b') %}{% for x in [1, 2, 3] %}{{ c.next() }}{% endfor %}{{ c.items }}{{ c.pos }}")
show("dict([('k', 'v')])", "dict(a=1)", "dict({'a': 1}, b=2)", "dict()", "dict([['a', 1]], a=2)", "dict([1])", "dict(1)", "dict('ab')", "dict(['ab'])", "dict({}, **{'x': 1})", "dict(none)", "dict({'a': 1}.items())")
show("range(3)", "range(1, 3)", "range(5, 0, -2) | list", "range(0)", "range(3)[1]", "range(3)[-1]", "range(10)[2:4]", "range(1, 3) == range(1, 3)", "range('a')", "range(1.0)", "range()", "2 in range(3)", "range(0, 10, 3) | list", "range(3) | string", "range(1, 3, 0)", "range(3) + [1]", "range(100001) | length", "range(0, 10, 3)", "range(3)[5]", "range(3).start", "range(2) is sequence", "range(3).index(1)")
show("lipsum()", "lipsum(n=0)", "lipsum(1, false) | length > 0", "strftime_now('%Y') | length", "raise_exception('x')", "raise_exception()", "raise_exception(message='x')", "raise_exception")
add("{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{{ ns.a }}{{ ns.b }}", "{% set ns = namespace({'a': 1}, b=6) %}{{ ns.a }}{{ ns.b }}", "{% set ns = namespace([('a', 1)]) %}{{ ns.a }}", "{% set ns = namespace() %}{% set ns.x = namespace(y=1) %}{{ ns.x.y }}",
    "{% set a = namespace(n=1) %}{% set b = namespace(a=a) %}{% set a.n = 2 %}{{ b.a.n }}", "{{ namespace(a=1) }}", "{% set ns = namespace(a=1) %}{{ ns['a'] }}{{ ns.b is defined }}", "{% set d = {} %}{% set d.a = 1 %}{{ d }}", "{% set ns = namespace() %}{% set ns.items = 3 %}{{ ns.items }}", "{% set ns.a = 1 %}", "{{ namespace() is mapping }}{{ namespace() is iterable }}{{ namespace(a=1) == namespace(a=1) }}", "{{ namespace(1) }}",
    "{% set ns = namespace(f=false) %}{% for x in [1, 2] %}{% set ns.f = true %}{% endfor %}{{ ns.f }}", "{% set ns = namespace(l=[]) %}{% for x in range(3) %}{% set ns.l = ns.l + [x] %}{% endfor %}{{ ns.l }}", "{{ namespace(a=1) | tojson }}", "{{ namespace(a=1) | list }}", "{{ namespace(a=1) | length }}", "{{ namespace(a=1).items() }}", "{% set ns = namespace(a=1) %}{% set ns.a, ns.b = 2, 3 %}{{ ns.a }}{{ ns.b }}", "{% set ns = namespace() %}{% set ns.a %}text{% endset %}{{ ns.a }}",
    "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns.me.me is defined }}")

# Operators.
show("1e-7", "1e22", "1e16", "123456789012345680.0", "0.1", "1.0", "100.0", "-0.0", "1e-4", "1e-5", "1.5e300", "5e-324", "0.1 + 0.2", "1/3", "10/2", "2**0.5", "[1e-7, 1e22]", "1e-7 ~ ''", "1_000", "0x1F", "0b101", "0o17", "1e5", "1E5", "1_0.5_0", ".5", "5.", "1__0", "007", "12345678901234567890", "2**64", "2**63", "2**200", "2**-1", "0**0", "(-2)**2", "-2**2", "2**3**2", "-1 ** 2")
show("7 // 2", "-7 // 2", "7 % 3", "-7 % 3", "7 % -3", "7.5 // 2", "-7.5 % 2", "1 / 0", "1 // 0", "1 % 0", "1.0 / 0", "1 / 2", "4 / 2", "0.0 // 1", "2 * 3", "2 * 'ab'", "'ab' * 2", "'ab' * -1", "[1] * 2", "(1,) * 2", "'a' * 1.5", "'a' * 'b'", "[1] + [2]", "(1,) + (2,)", "[1] + (2,)", "'a' + 'b'", "'a' + 1", "1 + 'a'", "none + 1", "{} + {}", "1 + true", "true + true", "1 - 2.5", "'a' - 'b'", "[] - []", "-'a'", "-true", "+1", "+'a'", "-none", "- -1", "foo + 1", "foo + 'a'", "'a' + foo", "foo ~ 'a'", "-foo", "foo * 2", "foo // 1", "foo % 2", "foo ** 2", "1 + foo", "9007199254740993 + 0", "9007199254740993 / 1", "10 ** 20", "10 ** 40", "3 * 1.5", "1e308 * 10", "-(5 // 2)", "1 // 0.3", "true * 'ab'", "not none", "{} | length + 1", "1 + 2 * 3 - 4 / 2", "7 // 2 * 2", "2 * 3 ~ 4 + 1")
show("1 ~ 'a' ~ none ~ true ~ 1.0 ~ [1, 'x'] ~ {'a': 1} ~ (1,)", "'a' ~ 1e22", "1 ~ 2 + 3", "foo ~ foo", "('<' | e) ~ '<'", "'<' ~ ('<' | e)")
show("1 < 2", "'a' < 'b'", "[1] < [2]", "(1,) < (1, 2)", "1 < 'a'", "none < 1", "foo < 1", "foo > 1", "1 <= foo", "foo == foo", "foo == none", "foo != 1", "foo == bar", "1 == 1.0", "1 == true", "'1' == 1", "none == none", "none == false", "[1] == (1,)", "[1, 2] == [1.0, 2]", "{} == {}", "1 < 2 < 3", "1 < 2 > 3", "1 == 1 == 1", "3 > 2 >= 2", "'a' in 'abc'", "1 in [1, 2]", "1 not in [1, 2]", "'a' in {'a': 1}", "1 in 'abc'", "1 in 1", "1 in none", "1 in foo", "foo in [1]", "foo in foo", "'' in ''", "none in [none]", "[1] in [[1]]", "1.0 in [1]", "'b' < 'B'", "{} < {}", "none < none", "none >= none", "true < 2", "true == 1.0", "[1, 'a'] < [1, 2]", "'a' in ['a'] == true", "not 'a' in 'b'", "1 < 2 in [true]", "range(3) == [0, 1, 2]", "'ä' > 'z'", "nan == nan", "('nan' | float) == ('nan' | float)", "1 < 1.5 <= 2", "2**53 == 2.0**53 + 1", "'abc' == 'abc' | upper", "0.1 + 0.2 == 0.3", "1 <> 2", "1 === 1", "1 && 2", "!true")
show("1 and 2", "0 and 2", "0 or 'x'", "'' or none", "not 1", "not foo", "foo or 'x'", "foo and 1", "none or foo", "not not 1", "1 and 2 or 3", "0 or 0 or 3", "[] or {} or 'e'", "1 if true else 2", "1 if false", "1 if foo else 2", "(1 if false) is defined", "1 if 0 else 2 if 0 else 3", "'a' if 1 and 0 else 'b'", "0.0 or 'z'", "'0' and 'y'", "(0,) and 1", "range(0) or 'e'", "namespace() and 1")
show("'abc'[0]", "'abc'[-1]", "'abc'[5]", "'abc'[1:]", "'abc'[::-1]", "'abc'[:-1]", "'abc'[::2]", "'abc'[1:2]", "[1, 2, 3][1:]", "[1, 2, 3][::-1]", "[1, 2, 3][-2:]", "(1, 2, 3)[1:]", "(1, 2, 3)[::-1]", "[1, 2][5]", "[1, 2][5] is defined", "[1, 2]['a']", "[1, 2][1.0]", "[1, 2][true]", "{'a': 1}[0]", "none[0]", "1[0]", "foo[0]", "foo.bar", "foo.bar.baz", "messages[0].x.y", "messages[0]['role']", "messages[-1].content", "messages[0:1]", "messages[5]", "'abc'[:]", "'abc'['a']", "'abc'[none:2]", "'abc'['a':]", "[1, 2, 3][0:2:1]", "[1][::0]", "'äöü'[1]", "foo[1:]", "none[1:]", "none.x", "1 .x", "'abc'.0", "[1, 2].1", "[[1, 2]].0.1", "{'a': [1]}.a.0", "[1, 2, 3][1, 2]", "{(1, 2): 5}[1, 2]", "none.x is defined", "none.x.y", "{}[1:]", "range(5)[1:3]", "[1, 2, 3][:100]", "[1, 2, 3][-100:2]", "'abc'[10:]", "messages[0]['content'][0]", "'abc'[-5]", "[none][0].x")
show("(1, 2)", "(1,)", "()", "(1)", "[(1, 2), 'a']", "{'a': (1,)}", "1, 2", "1,", "[1, 2,]", "{'a': 1,}", "(1, 2,)", "((1, 2), 3)", "[,]", "{,}", "(,)", "[none, true, false, 1.5, 'x']", "['it\\'s', \"q\\\"\", '\\n', 'ä', '\\x00', '\\u200b', '😀', '\\\\']", "{'a': {'b': [1, {'c': none}]}}", "true, True, false, False, none, None", "[True, None]")
show("'a\\/b'", "'a\\nb'", "'\\x41'", "'\\u0041'", "'\\U0001F600'", "'\\101'", "'\\q'", "'\\''", "\"\\\"\"", "'a\\\\b'", "'\\0' | length", "'\\N{DIGIT ONE}'", "'\\ud83d\\ude00'", "'\\a\\b\\f\\v' | length", "'a' 'b'", "'a' \"b\" 'c'", "'\\x4'", "'\\ud800'", "'\\8'", "'line\\\nnext'", "'{{ x }}'", "'%}'", "'tab\\tx'", "'\\d+\\.'", "'ä\\xe4'", "'\\400'", "'new\nline'")
show("é", "{'é': 1}.é", "{'日本': 'x'}.日本", "foo.é", "'a' | é")
add("{% set é = 1 %}{{ é }}", "{% set 变量 = 'v' %}{{ 变量 ~ 变量 }}", "{% macro größe(ä) %}{{ ä }}{% endmacro %}{{ größe(1) }}", "{% for ñ in [1] %}{{ ñ }}{% endfor %}", "{% set _x = 1 %}{{ _x }}", "{% set a1 = 1 %}{{ a1 }}", "{{ 1a }}", "{% set x² = 1 %}{{ x² }}")

# Macros and calls.
add("{% macro f(a) %}{{ varargs }}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}{{ kwargs }}{% endmacro %}{{ f(1, b=2) }}", "{% macro f(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, x=4) }}", "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(b=1) }}", "{% macro f(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(b=5, a=4) }}",
    "{% macro f(a) %}{{ a is defined }}{% endmacro %}{{ f() }}", "{% macro f(a, b=a) %}{{ b }}{% endmacro %}{{ f(1) }}", "{% macro f() %}x{% endmacro %}{{ f }}", "{% macro f(x) %}{{ x }}{% if x %}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "{% macro f() %}[{{ caller() }}]{% endmacro %}{% call f() %}body{% endcall %}", "{% macro f() %}[{{ caller(1) }}]{% endmacro %}{% call(x) f() %}b{{ x }}{% endcall %}",
    "{% macro f() %}{{ caller is defined }}{% endmacro %}{{ f() }}", "{% macro f(a) %}{{ f.name }}{{ f.arguments }}{{ f.catch_varargs }}{{ f.catch_kwargs }}{{ f.caller }}{% endmacro %}{{ f(1) }}", "{% macro f() %}  a  {% endmacro %}[{{ f() | trim }}]", "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(*[1]) }}{{ f(**{'a': 2}) }}", "{% set x = 1 %}{% macro f() %}{{ x }}{% endmacro %}{{ f() }}", "{% macro f() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ f() }}",
    "{% macro f() %}{% set y = 2 %}{{ y }}{% endmacro %}{{ f() }}{{ y }}", "{% macro f() %}{{ varargs | length }}{% endmacro %}{{ f(1, 2, 3) }}", "{% macro f() %}{{ kwargs.items() | list }}{% endmacro %}{{ f(a=1) }}", "{% macro f() %}x{% endmacro %}{{ f() ~ f() }}{{ f() | length }}", "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}", "{% macro f(a) %}{{ caller(a) }}{% endmacro %}{% call(y) f(2) %}{{ y * 2 }}{% endcall %}",
    "{% call nothing() %}{% endcall %}", "{% macro f() %}x{% endmacro %}{% call f() %}{% endcall %}", "{% macro f(x) %}{% for i in x %}{{ i }}{% endfor %}{% endmacro %}{{ f([1, 2]) }}", "{{ f() }}{% macro f() %}x{% endmacro %}", "{% for x in [1] %}{% macro f() %}{{ x }}{% endmacro %}{{ f() }}{% endfor %}", "{% macro f(a, b) %}{{ a }}-{{ b }}{% endmacro %}{{ f(1, a=2) }}", "{% macro m(varargs) %}{{ varargs }}{% endmacro %}{{ m(1) }}", "{% macro f(a=[]) %}{{ a }}{% endmacro %}{{ f() }}{{ f(none) }}")
# Statements.
add("{% for x in [1, 2, 3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}", "{% for x in [] %}a{% else %}empty{% endfor %}", "{% for x in [1, 2, 3] if x > 1 %}{{ x }}{{ loop.index }}{{ loop.length }}{% endfor %}", "{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}",
    "{% for x in [[1, [2]], [3]] recursive %}{{ x if x is number else loop(x) }}{% endfor %}", "{% for a, b in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}", "{% for a, b in [1] %}{{ a }}{% endfor %}", "{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}", "{% for x in none %}{% endfor %}", "{% for x in foo %}a{% else %}b{% endfor %}", "{% for x in 5 %}{% endfor %}", "{% for c in 'äb' %}{{ c }}.{% endfor %}", "{% for x in [1, 2, 3, 4] %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in [1, 2] %}{% set y = x %}{% endfor %}{{ y }}", "{% for x in [1] %}{{ loop }}{% endfor %}", "{{ loop }}", "{% for x in [1, 2] %}{% for y in [1] %}{{ loop.parent }}{% endfor %}{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for x in {'a': 1}.items() %}{{ x }}{% endfor %}", "{% for x in messages %}{{ x.role }}{{ x }}{% endfor %}", "{% set x = 0 %}{% for x in [1] %}{% endfor %}{{ x }}", "{% for x in range(2) %}{{ x }}{% endfor %}{{ x }}", "{% for x in true %}{% endfor %}", "{% for x in (1, 2) %}{{ x }}{% endfor %}", "{% for x in ['a', 'b'] | map('upper') %}{{ x }}{{ loop.last }}{% endfor %}", "{% for x in 1, 2 %}{{ x }}{% endfor %}", "{% for loop in [1] %}{% endfor %}", "{% for x in [3, 4] %}{{ loop.nextitem is defined }}{{ loop.previtem is defined }}{% endfor %}",
    "{% if 1 %}a{% elif 2 %}b{% else %}c{% endif %}", "{% if 0 %}a{% elif 2 %}b{% else %}c{% endif %}", "{% if foo %}a{% endif %}", "{% if foo.bar %}a{% else %}b{% endif %}", "{% if foo.bar.baz %}a{% endif %}", "{% if none %}{% else if 1 %}{% endif %}", "{% if 1 %}{% set x = 1 %}{% endif %}{{ x }}", "{% if 1", "{% if 1 %}", "{% endif %}", "{% foo %}", "{{ }}", "{{ 1 +", "{% set %}", "{% set x %}", "{% if %}a{% endif %}",
    "{% set x = 1, 2 %}{{ x }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a, b = [1] %}", "{% set (a, b) = (1, 2) %}{{ b }}", "{% set x %}a{{ 1 }}b{% endset %}{{ x }}", "{% set x | upper %}a{% endset %}{{ x }}", "{% set x | replace('a', 'b') | upper %}a{% endset %}{{ x }}", "{% set x = y = 1 %}", "{% set x = 'a' if 0 %}{{ x is defined }}", "{% set true = 1 %}", "{% set x = [1, 2] %}{% set x = x + [3] %}{{ x }}", "{% set messages = messages[1:] %}{{ messages }}", "{% set x = a = 2 %}", "{% set x += 1 %}", "{% set x.y.z = 1 %}", "{% set a = b = c %}",
    "{% with a=1, b=2 %}{{ a }}{{ b }}{% endwith %}{{ a }}", "{% with %}{% set x = 1 %}{{ x }}{% endwith %}{{ x }}", "{% with a=1, b=a %}{{ b }}{% endwith %}", "{% with a, b = (1, 2) %}{{ b }}{% endwith %}", "{% filter upper %}a{{ 'b' }}{% endfilter %}", "{% filter replace('a', 'b') | upper %}a{% endfilter %}", "{% raw %}{{ x }}{% endraw %}", "{% raw -%} a {%- endraw %}", "{# c #}a{#- c -#} b", "{% do [1] %}", "{% do x.append(1) %}", "{% autoescape true %}{{ '<' }}{% endautoescape %}", "{% autoescape false %}{{ '<' }}{% endautoescape %}",
    "{% block x %}a{{ messages[0].role }}{% endblock %}", "{% block x %}a{% endblock x %}b{{ self.x() }}", "{% block x %}{% endblock %}{% block x %}{% endblock %}", "{% for i in [1, 2] %}{% block y scoped %}{{ i }}{% endblock %}{% endfor %}", "{% for i in [1, 2] %}{% block z %}{{ i }}{% endblock %}{% endfor %}", "{% set q = 1 %}{% block w %}{{ q }}{% endblock %}", "{% block x %}{% set t = 1 %}{% endblock %}{{ t }}", "{% block x required %}{% endblock %}",
    "{% include 'x' %}", "{% include 'x' ignore missing %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{% from 'x' import y %}", "{% generation %}a{{ 1 }}{% endgeneration %}b", "{%- generation -%} a {%- endgeneration -%} b", "{% trans %}a{% endtrans %}", "{% debug %}",
    "a\n  {% if 1 %}  \nb\n  {% endif %}\nc", "a\n  {%+ if 1 %}\nb{% endif +%}\nc", "a \n {{- 1 -}} \n b", "{{ 1 }}\n", "{{ 1 }}\n\n", "a\r\nb\rc", "  {# c #}\nb", "x {%- if 1 -%} y {%- endif -%} z", "{% if 1 -%}\n  a\n{%- endif %}\n b", "{{ 1 }} {{- 2 }} {{ 3 -}} 4", "{%- set x = 1 -%}\n\n  {{- x }}", "\n{{ 1 }}", "{% if 1 %}\n\na{% endif %}", "\t{% if 1 %}a{% endif %}", "a {% if 1 %}\nb{% endif %}", "\u00a0{% if 1 %}\nb{% endif %}", "a\u2003{%- if 1 %}b{% endif %}", "a\x1f{{- 1 }}", "{{ '}}' }}", "{{ {'a': {'b': 1}}}}", "{{ {'a': 1}['a']}}", "{{'%}'}}", "{{ '{#' }}#}", "{{ 1 }}#}", "# {{ 1 }} ##", "{", "{{ '{' }}", "}}", "%}", "{% if '%}' %}a{% endif %}", "{#", "{{ a", "{{ 'a }}", "{% raw %}", "{{ (1 }}", "{{ 1) }}", "{{ [1) }}", "{%%}", "{{{1: 2}}}", "{{ 1 # c\n }}", "{{ \\ }}", "{{ 1 ; 2 }}", "{{ $x }}", "{{ ? }}", "{{ a b }}", "{{ x = 1 }}", "{{ lambda: 1 }}", "{{ [x for x in y] }}", "{{ not }}", "{{ 1 is }}", "{{ 'a' | }}", "{{ f(a=1, 2) }}", "{{ f(, ) }}", "{{ range(*[1, 3]) | list }}", "{{ dict(**{'a': 1}) }}", "{{ range(1, *[3]) | list }}", "{{ dict(a=1, a=2) }}", "{{ 'a' | replace(*['a', 'b']) }}")
add("{{ messages | length }}{{ messages[0].role == 'user' }}", "{{ messages[0] }}", "{{ messages }}", "{{ tools }}{{ documents }}", "{{ add_generation_prompt }}", "{{ tools is none }}{{ tools is iterable }}{{ tools is defined }}", "{% if tools is iterable and tools | length > 0 %}a{% endif %}b", "{{ messages[0].get('x', 'd') }}", "{{ messages[0].keys() | list }}", "{{ messages[0].items() | list }}", "{{ self }}", "{{ self.x }}", "{{ context }}", "{{ caller }}", "{{ super() }}", "{{ _('a') }}", "{{ gettext }}", "{{ len([1]) }}", "{{ str(1) }}", "{{ print(1) }}", "{{ zip }}", "{{ enumerate }}", "{{ float }}", "{{ now() }}", "{{ debug() }}", "{{ foo() }}", "{{ none() }}", "{{ 'a'() }}", "{{ messages() }}", "{{ messages[0].content.strip().split('H')[-1] }}", "{{ (messages | first).role }}", "{{ messages | map(attribute='role') | list | tojson }}", "{{ ('user' in (messages | map(attribute='role'))) }}", "{{ messages[::-1][0].role }}", "{{ messages[0] | items | list }}", "{{ messages[0] | dictsort }}", "{{ messages == messages }}", "{{ messages[0] in messages }}", "{{ messages[0].role in ['user', 'x'] }}", "{{ messages[0].content is string and messages[0].content is not mapping }}", "{{ messages[0] | tojson(indent=2) }}", "{{ foo.bar() }}", "{{ messages[0].foo() }}", "{{ 'Hi' == messages[0].content }}", "{{ messages[0]['content'] | trim | upper ~ '!' }}")

# Kinds that other snippets only touch.
show("{'a': {'items': [1]}}.a['items']", "{'properties': {'type': 'x'}}.properties.type", "messages[0].count is defined", "'a'.encode()[0]", "'ab'.encode() == 'ab'.encode()", "'a'.encode() == 'a'", "'%s' % 'a'.encode()", "[1, 2] is in [[1, 2]]", "range(10)[::2]", "range(10)[::-1] | list", "range(5, 0, -1)[1:3]", "messages.0.role", "[[3, 1], [2]] | map('sort') | list", "['b', 'a'] | sort | first", "[{'a': 1}] | map('items') | map('list') | list", "[1, 2, 3] | map('string') | map('length') | sum", "{'a': [1, 2]} | items | first | last | join", "'a,b' | replace(',', ';') | upper ~ 1", "not (1 > 2) and 'x' in 'xy'", "(1, 2) + (3,)", "[*[1]]", "1 if 1 > 0 else raise_exception('no')", "('a' ~ 1) | upper", "'abc' | first | upper", "[1, [2, [3, [4]]]] | tojson(indent=1)", "'x' * 3 ~ 'y'", "- 3 | abs", "-3.7 | int", "3 | string ~ 4", "1.0 | int", "'5' | int + 1", "none | default('n', true) ~ ''", "(none or {}).get('a', 'b')", "(tools or []) | length", "messages | selectattr('role', 'equalto', 'user') | list | length", "messages | map(attribute='content') | join('\\n')", "messages[-1]['role'] != 'assistant'", "messages[0].content.split('i') | first", "messages[0].content[0] | lower", "loop is defined", "messages is sequence and messages is not string")
add("{% macro f(a, b='x', c=none) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1, c=2) }}{{ f(b=none, a=0) }}", "{% macro f(a) %}{{ a.b if a.b is defined else 'no' }}{% endmacro %}{{ f({'b': 2}) }}{{ f({}) }}", "{% macro g(x) -%}  {{ x }}  {%- endmacro %}[{{ g(1) }}]", "{% macro outer() %}{% macro inner() %}i{% endmacro %}{{ inner() }}{% endmacro %}{{ outer() }}", "{% macro f() %}{{ kwargs.x }}{{ kwargs | length }}{% endmacro %}{{ f(x=1, y=2) }}", "{% for m in messages if m.role == 'user' %}{{ loop.length }}{{ m.content }}{% endfor %}", "{% set x = namespace(n=0) %}{% for i in range(4) %}{% if i is odd %}{% set x.n = x.n + i %}{% endif %}{% endfor %}{{ x.n }}", "{% for i in range(3) %}{{ i }}{% if not loop.last %}, {% endif %}{% endfor %}", "{% for a in [1, 2] %}{% for b in [3] %}{{ loop.index }}{{ a }}{{ b }}{% endfor %}{{ loop.index }}{% endfor %}", "{% if 'a' is string %}{% if 1 is number %}x{% endif %}{% else %}y{% endif %}", "{% set x %}  a\n{% endset %}[{{ x | trim }}]", "{% set x = {'a': [1, {'b': 2}]} %}{{ x.a[1].b }}{{ x['a'][0] }}", "{% filter indent(2) %}a\nb{% endfilter %}", "{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{{ v }}{% endfor %}", "{% for row in [1, 2, 3] | batch(2) %}{{ row | join('-') }};{% endfor %}", "{% set g = [1, 2] | map('string') %}{{ g | join }}{{ g | join }}", "{% set g = [1, 2] | map('string') %}{{ 1 in g }}{{ g | list }}", "{% for x in [1, 2, 3] %}{% if loop.first %}{% continue %}{% endif %}{{ x }}{{ loop.previtem }}{% endfor %}", "{% for x in [] %}{% else %}none{% endfor %}", "{% set a = [1] %}{% set b = a + [2] %}{{ a }}{{ b }}", "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}", "{% with x = 5 %}{% set y = x %}{% endwith %}{{ y is defined }}", "{% set x = 'o' %}{% with x = 'i' %}{{ x }}{% endwith %}{{ x }}", "{% macro f(x) %}{% set ns.y = x %}{% endmacro %}{% set ns = namespace() %}{{ f(3) }}{{ ns.y }}", "{% block a %}{% for x in [1, 2] %}{{ loop.index }}{% endfor %}{% endblock %}", "{% if true %}{% block a %}x{% endblock %}{% endif %}", "{% for x in {'a': 1} | items %}{{ x[0] }}{{ x[1] }}{% endfor %}", "{% for x, y in [[1, 2], [3, 4]] %}{{ x + y }}{% endfor %}", "{% set x, y = 'ab' %}{{ x }}", "{% for x in 'ab', 'cd' %}{{ x }};{% endfor %}", "{{ 'a' if true }}{{ 'b' if false }}", "{% macro f(a, b=1, c) %}{% endmacro %}", "{% macro f(a, a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}", "{% call(a, b=2) f() %}{% endcall %}", "{% macro f() %}{{ caller(1) }}{% endmacro %}{% call(a, b=2) f() %}{{ a }}{{ b }}{% endcall %}", "{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}{% call f() %}in{% endcall %}{% endcall %}", "{% set loop = 1 %}{{ loop }}", "{% for x in [1] %}{% set l = loop %}{{ l.index }}{% endfor %}")

# Cases in which other engines differ.
add(
    "{{ 'a' is sequence }}",
    '{{ {} is sequence }}',
    '{{ 1e-7 }} {{ 1e22 }} {{ [1e-05, 1e16] | tojson }}',
    '{{ "it\'s".title() }}',
    "[{{ messages[0] | attr('role') }}]",
    "{{ 'x' | int }} {{ 'x' | float }}",
    '{{ raise_exception is callable }}',
    "{{ 'abc'.index('b') }} {{ [3, 1].index(1) }}",
    "{{ '7'.zfill(3) }}{{ 'a'.ljust(3) }}|",
    "{{ 'a b' | wordcount }}",
    "{% set j = joiner(',') %}{{ j() }}{{ j() }}",
)

# Slices of what has no items, bounds that are no numbers, filter blocks that give no text, and flags of a sort.
for value in ["7", "1.5", "none", "true", "foo", "messages[0]", "{'a': 1}", "namespace(a=1)", "{'a': 1}.items()", "([1] | map('abs'))", "joiner()"]:
    add("{% set x = " + value + " %}{{ x[1:] }}", "{% set x = " + value + " %}{{ x[::2] is defined }}")
for bound in ["'a'", "1.0", "none", "true", "foo", "[]"]:
    add("{% set b = " + bound + " %}{{ 'abc'[b:] }}", "{% set b = " + bound + " %}{{ [1, 2][:b] }}", "{% set b = " + bound + " %}{{ (1, 2)[::b] }}")
    add("{% set b = " + bound + " %}{{ [1, 2] | sort(b) }}", "{% set b = " + bound + " %}{{ {'a': 1, 'b': 2} | dictsort(reverse=b) }}")
for name in ["length", "count", "list", "first", "wordcount", "int", "tojson", "escape", "string", "default('x')", "min", "unique | list", "length | string", "items"]:
    add("{% filter " + name + " %}ab{{ 1 }}{% endfilter %}", "{% filter " + name + " %}{% endfilter %}")

# White space around raw blocks.
for before, opening, closing, after in [
    ("", "{% raw %}", "{% endraw %}", "\n"), ("a\n", "{% raw %}", "{% endraw %}", "\nb"), ("a\n  ", "{% raw %}", "{% endraw %}", "\n\nb"),
    ("a\n  ", "{%+ raw %}", "{% endraw +%}", "\n b"), ("a \n", "{%- raw -%}", "{%- endraw -%}", " \n b"), ("a", "{%raw%}", "{%endraw%}", "b"),
    ("a ", "{% raw -%}", "{%- endraw %}", "\n"), ("", "{% raw +%}", "{% endraw %}", ""), ("a", "{%\nraw\n%}", "{%-\nendraw\n-%}", "\n b"),
]:
    for inner in ["", "\n", "\n\n", "x", "\n{{ 1 }}\n", " \n {% if %}\n  ", "\r\n{#\r\n"]:
        add(before + opening + inner + closing + after)
