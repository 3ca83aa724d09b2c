//! Templates made to use up the stack, the time or the memory: each renders, or ends with an error that says what was
//! exceeded, soon, and on a stack of one mebibyte.

use std::time::{Duration, Instant};

use super::jinja::render;

type Form = (&'static str, fn(usize) -> String);

/// What is repeated, and how.
const FORMS: &[Form] = &[
    ("minus", |n| format!("{{{{ {}1 }}}}", "-".repeat(n))),
    ("spaced minus", |n| format!("{{{{ {}1 }}}}", "- ".repeat(n))),
    ("plus sign", |n| format!("{{{{ {}1 }}}}", "+".repeat(n))),
    ("not", |n| format!("{{{{ {}1 }}}}", "not ".repeat(n))),
    ("sum", |n| format!("{{{{ 1{} }}}}", "+1".repeat(n))),
    ("sum of both", |n| format!("{{{{ 1{} }}}}", "+1-1".repeat(n))),
    ("product", |n| format!("{{{{ 1{} }}}}", "*1".repeat(n))),
    ("product of many", |n| format!("{{{{ 1{} }}}}", "*1//1%7".repeat(n))),
    ("power", |n| format!("{{{{ 1{} }}}}", "**1".repeat(n))),
    ("tilde", |n| format!("{{{{ 1{} }}}}", "~1".repeat(n))),
    ("and", |n| format!("{{{{ 1{} }}}}", " and 1".repeat(n))),
    ("or", |n| format!("{{{{ 0{} }}}}", " or 0".repeat(n))),
    ("and or", |n| format!("{{{{ 1{} }}}}", " and 1 or 0".repeat(n))),
    ("comparison", |n| format!("{{{{ 1{} }}}}", " < 2".repeat(n))),
    ("in", |n| format!("{{{{ 1{} }}}}", " in [1]".repeat(n))),
    ("subscript", |n| format!("{{{{ messages{} }}}}", "[0]".repeat(n))),
    ("slice", |n| format!("{{{{ messages{} }}}}", "[:]".repeat(n))),
    ("attribute", |n| format!("{{{{ a{} }}}}", ".a".repeat(n))),
    ("known attribute", |n| format!("{{{{ a{} }}}}", ".items".repeat(n))),
    ("number attribute", |n| format!("{{{{ a{} }}}}", ".0".repeat(n))),
    ("call", |n| format!("{{{{ a{} }}}}", "()".repeat(n))),
    ("method", |n| format!("{{{{ 'a'{} }}}}", ".upper()".repeat(n))),
    ("filter", |n| format!("{{{{ 'a'{} }}}}", "|upper".repeat(n))),
    ("test", |n| format!("{{{{ 1{} }}}}", " is defined".repeat(n))),
    ("test with value", |n| format!("{{{{ 1 is eq {} 1 }}}}", "not ".repeat(n))),
    ("if expression", |n| format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(n))),
    ("if without else", |n| format!("{{{{ 1{} }}}}", " if 1".repeat(n))),
    ("brackets", |n| format!("{{{{ {}1{} }}}}", "(".repeat(n), ")".repeat(n))),
    ("open brackets", |n| format!("{{{{ {}", "(".repeat(n))),
    ("tuples", |n| format!("{{{{ {}1{} }}}}", "(".repeat(n), ",)".repeat(n))),
    ("lists", |n| format!("{{{{ {}{} }}}}", "[".repeat(n), "]".repeat(n))),
    ("dicts", |n| format!("{{{{ {}1{} }}}}", "{1:".repeat(n), "}".repeat(n))),
    ("subscripts within", |n| format!("{{{{ {}0{} }}}}", "a[".repeat(n), "]".repeat(n))),
    ("calls within", |n| format!("{{{{ {}0{} }}}}", "range(".repeat(n), ")".repeat(n))),
    ("filters within", |n| format!("{{{{ {}0{} }}}}", "1|default(".repeat(n), ")".repeat(n))),
    ("tests within", |n| format!("{{{{ {}0{} }}}}", "1 is eq(".repeat(n), ")".repeat(n))),
    ("if within", |n| format!("{{{{ {}1{} }}}}", "(1 if ".repeat(n), " else 2)".repeat(n))),
    ("strings", |n| format!("{{{{ {} }}}}", "'a' ".repeat(n))),
    ("items", |n| format!("{{{{ [{}] | length }}}}", "1,".repeat(n))),
    ("arguments", |n| format!("{{{{ dict({}) }}}}", "**{},".repeat(n))),
    ("elif", |n| format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(n))),
    ("if blocks", |n| format!("{}{}", "{% if 1 %}".repeat(n), "{% endif %}".repeat(n))),
    ("else if blocks", |n| format!("{}{}", "{% if 0 %}{% else %}".repeat(n), "{% endif %}".repeat(n))),
    ("for blocks", |n| format!("{}{}", "{% for x in [1] %}".repeat(n), "{% endfor %}".repeat(n))),
    ("with blocks", |n| format!("{}{}", "{% with a = [a] %}".repeat(n), "{% endwith %}".repeat(n))),
    ("set blocks", |n| format!("{}{}", "{% set x %}".repeat(n), "{% endset %}".repeat(n))),
    ("filter blocks", |n| format!("{}{}", "{% filter upper %}".repeat(n), "{% endfilter %}".repeat(n))),
    ("filter chain of a block", |n| format!("{{% filter upper{} %}}{{% endfilter %}}", "|upper".repeat(n))),
    ("generation blocks", |n| format!("{}{}", "{% generation %}".repeat(n), "{% endgeneration %}".repeat(n))),
    ("macros within", |n| format!("{}{}", "{% macro m() %}".repeat(n), "{% endmacro %}".repeat(n))),
    ("call blocks", |n| {
        let macros = "{% macro m() %}{{ caller() }}{% endmacro %}";
        format!("{macros}{}x{}", "{% call m() %}".repeat(n), "{% endcall %}".repeat(n))
    }),
    ("macros in a row", |n| {
        let each = |at: usize| format!("{{% macro m{at}() %}}{{{{ m{}() }}}}{{% endmacro %}}", at + 1);
        format!("{}{{{{ m0() }}}}", (0..n).map(each).collect::<String>())
    }),
    ("recursive macro", |n| format!("{{% macro m(i) %}}{{{{ m(i - 1) if i }}}}{{% endmacro %}}{{{{ m({n}) }}}}")),
    ("recursive default", |n| format!("{{% macro m(i, x=m(i - 1) if i else 0) %}}{{% endmacro %}}{{{{ m({n}) }}}}")),
    ("recursive call block", |n| {
        format!(
            "{{% macro m(i) %}}{{% if i %}}{{% call m(i - 1) %}}{{% endcall %}}{{% endif %}}{{{{ caller() if 0 }}}}{{% endmacro %}}{{% call m({n}) %}}{{% endcall %}}"
        )
    }),
    ("recursive loop", |_| "{% set x = [[]] %}{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned()),
    ("macros by map", |n| format!("{{% macro m(i) %}}{{{{ [i] | map('m') | list }}}}{{% endmacro %}}{{{{ m({n}) }}}}")),
    ("target", |n| format!("{{% set {}a{} = 1 %}}", "(".repeat(n), ")".repeat(n))),
    ("targets", |n| format!("{{% set {} = 1 %}}", "a,".repeat(n))),
    ("loop target", |n| format!("{{% for {}a{} in 1 %}}{{% endfor %}}", "(".repeat(n), ")".repeat(n))),
    ("parameters", |n| format!("{{% macro m({}) %}}{{% endmacro %}}", "a,".repeat(n))),
    ("list in itself", |n| {
        format!(
            "{{% set ns = namespace(x=[]) %}}{{% for i in range({n}) %}}{{% set ns.x = [ns.x] %}}{{% endfor %}}{{{{ ns.x }}}}"
        )
    }),
    ("list in itself, written out", |n| format!("{{% set x = [] %}}{}{{{{ x == x }}}}", "{% set x = [x] %}".repeat(n))),
    ("dict in itself", |n| format!("{{% set x = 1 %}}{}{{{{ x | tojson }}}}", "{% set x = {'a': x} %}".repeat(n))),
    ("tuple in itself", |n| format!("{{% set x = 1 %}}{}{{{{ x ~ '' }}}}", "{% set x = (x, 1) %}".repeat(n))),
    ("dict() in itself", |n| format!("{{% set x = 1 %}}{}{{{{ x }}}}", "{% set x = dict(a=x) %}".repeat(n))),
    ("namespace in itself", |n| format!("{{% set x = 1 %}}{}", "{% set x = namespace(a=x) %}".repeat(n))),
    ("cycler in itself", |n| format!("{{% set x = 1 %}}{}", "{% set x = cycler(x) %}".repeat(n))),
    ("items of itself", |n| format!("{{% set x = {{}} %}}{}", "{% set x = {'a': x}.items() %}".repeat(n))),
    ("batches of itself", |n| format!("{{% set x = [1] %}}{}", "{% set x = x | batch(1) | list %}".repeat(n))),
    ("slices of itself", |n| format!("{{% set x = [1] %}}{}", "{% set x = x | slice(1) | list %}".repeat(n))),
    ("groups of itself", |n| format!("{{% set x = [1] %}}{}", "{% set x = x | groupby('a') %}".repeat(n))),
    ("dict.fromkeys of itself", |n| format!("{{% set x = 1 %}}{}", "{% set x = {}.fromkeys([1], x) %}".repeat(n))),
    ("methods of itself", |n| format!("{{% set x = {{}} %}}{}", "{% set x = {'a': x}.get %}".repeat(n))),
    ("varargs in itself", |n| {
        let nest = "{% macro m() %}{{ m(varargs) if varargs | length }}{% endmacro %}";
        format!("{nest}{{{{ m({n}) }}}}")
    }),
    ("namespaces in a chain", |n| {
        format!(
            "{{% set a = namespace() %}}{{% set ns = namespace(c=a) %}}{{% for i in range({n}) %}}{{% set c = ns.c %}}{{% set d = namespace() %}}{{% set c.x = d %}}{{% set ns.c = d %}}{{% endfor %}}"
        )
    }),
    ("loops in a chain", |n| {
        format!(
            "{{% set ns = namespace(l=1) %}}{{% for i in range({n}) %}}{{% for a in [ns.l] %}}{{% set ns.l = loop %}}{{% endfor %}}{{% endfor %}}"
        )
    }),
    ("changed in a chain", |n| format!("{{% for i in range({n}) %}}{{{{ loop.changed([loop]) }}}}{{% endfor %}}")),
    ("sums of lists", |n| {
        format!(
            "{{% set ns = namespace(x=[]) %}}{{% for i in range({n}) %}}{{% set ns.x = ns.x + [1] %}}{{% endfor %}}{{{{ ns.x | length }}}}"
        )
    }),
    ("joiners of joiners", |n| format!("{{% set x = '' %}}{}", "{% set x = joiner(x)() %}".repeat(n))),
];

/// Renders on a small stack. The template's own size counts, too, so a thread that overflows ends the test program.
fn attempt(template: String) -> (Result<String, String>, Duration) {
    let run = move || {
        let start = Instant::now();
        (render(&template), start.elapsed())
    };
    std::thread::Builder::new().stack_size(1 << 20).spawn(run).unwrap().join().unwrap()
}

fn check(name: &str, template: String) {
    let (rendered, took) = attempt(template);
    assert!(took < Duration::from_secs(20), "{name} took {took:?}");
    if let Err(e) = rendered {
        let says = [
            "more than",
            "cannot be",
            "not ",
            "expected",
            "was stopped",
            "recursion",
            "no ",
            "undefined",
            "unexpected",
            "unknown",
            "exceeds",
        ];
        assert!(says.iter().any(|words| e.contains(words)) && e.len() < 1000, "{name}: {e}");
    }
}

#[test]
fn nesting_is_bounded_in_every_form() {
    for (name, form) in FORMS {
        for n in [1, 12, 46, 47, 48, 49, 64, 150, 1000, 20_000] {
            check(&format!("{name}, {n} times"), form(n));
        }
    }
}

#[test]
fn forms_within_forms_are_bounded_too() {
    // Each form's deepest that is taken, within as many blocks as are taken.
    let blocks = |inner: String| format!("{}{inner}{}", "{% if 1 %}".repeat(46), "{% endif %}".repeat(46));
    let nested = |open: &str, close: &str| {
        let inner = (0..100).rev().map(|n| format!("{{{{ {}1{} }}}}", open.repeat(n), close.repeat(n)));
        inner.into_iter().map(blocks).find(|template| attempt(template.clone()).0.is_ok()).expect("one is taken")
    };
    for (open, close) in
        [("(", ")"), ("[", "]"), ("-", ""), ("(1 if ", " else 2)"), ("1|default(", ")"), ("[1 is eq(", ")]")]
    {
        nested(open, close);
    }
    // A macro that calls itself from within blocks and brackets.
    let deep = format!(
        "{}{{{{ {}m(i + 1){} }}}}{}",
        "{% if 1 %}".repeat(40),
        "[".repeat(20),
        "]".repeat(20),
        "{% endif %}".repeat(40)
    );
    check("a macro within blocks", format!("{{% macro m(i) %}}{deep}{{% endmacro %}}{{{{ m(0) }}}}"));
}

#[test]
fn work_and_memory_are_paid_for() {
    let big = "{% set big = 'ab' * 200000 %}";
    for (name, work) in [
        ("equality", "{{ big == big ~ '' }}"),
        ("in a list", "{{ big in [big ~ '', big ~ ''] }}"),
        ("key", "{{ {big: 1}[big ~ ''] }}"),
        ("sum", "{{ (big + big) | length }}"),
        ("replace", "{{ big.replace('a', 'bb') | length }}"),
        ("join", "{{ [big, big] | join | length }}"),
        ("upper", "{{ big.upper() | length }}"),
        ("format", "{{ ('%s' % big) | length }}"),
        ("tojson", "{{ big | tojson | length }}"),
        ("sort", "{{ [big ~ 1, big ~ 2, big ~ 3] | sort | length }}"),
        ("lists compared", "{% set l = [1] * 1000000 %}{{ l == l + [] }}"),
        ("indent", "{{ ('\\n' * 1000) | indent(15000) | length }}"),
    ] {
        let template = format!(
            "{big}{{% for i in range(99999) %}}{{% for j in range(99999) %}}{work}{{% endfor %}}{{% endfor %}}"
        );
        let (rendered, took) = attempt(template);
        let error = rendered.expect_err(name);
        assert!(error.contains("was stopped") || error.contains("would be made"), "{name}: {error}");
        assert!(took < Duration::from_secs(60), "{name} took {took:?}");
    }
    for template in [
        "{{ 'a' * 1000000000 }}",
        "{{ [1] * 1000000000 }}",
        "{{ (1,) * 1000000000 }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:.1000000000f}'.format(1.5) }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ 'a' | indent(1000000000) }}",
        "{{ 'a'.zfill(1000000000) }}",
        "{{ [1] | slice(1000000000) | list }}",
        "{{ [1] | batch(1000000000, 2) | list }}",
        "{{ range(1000000000) }}",
        "{{ ('a' * 10000).replace('', 'b' * 10000) }}",
        "{{ ('b' * 10000).join('a' * 10000) }}",
        "{{ ('a' * 10000) | join('b' * 10000) }}",
        "{{ ('a' * 10000000) ~ ('a' * 10000000) }}",
        "{{ 10 ** 1000000000 }}",
        "{{ 1.5 | round(1000000000) }}",
    ] {
        let (rendered, took) = attempt(template.to_owned());
        assert!(rendered.is_err() && took < Duration::from_secs(10), "{template}: {took:?}");
    }
}

#[test]
fn calls_and_macros_have_so_many_arguments() {
    let list = |count: usize| (0..count).map(|i| format!("a{i}=1")).collect::<Vec<_>>().join(",");
    for (count, refused) in [(1000, false), (1001, true), (50_000, true)] {
        for (template, expected) in [
            (format!("{{{{ dict({}) | length }}}}", list(count)), "a call has more than 1000 arguments"),
            (
                format!("{{% macro f({}) %}}{{{{ a0 }}}}{{% endmacro %}}{{{{ f() }}}}", list(count)),
                "a macro has more than 1000 parameters",
            ),
        ] {
            let (rendered, took) = attempt(template);
            match rendered {
                Ok(_) => assert!(!refused, "{count}: {expected}"),
                Err(error) => assert!(refused && error.contains(expected), "{count}: {error}"),
            }
            assert!(took < Duration::from_secs(20), "{count}: {expected}, {took:?}");
        }
    }
}
