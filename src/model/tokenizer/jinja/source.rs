//! Rewrites a template, tag by tag, into what the engine compiles (see [`super`]).
//!
//! Line ends become those that Jinja reads, `{% generation %}` tags lose their effect, expressions are rewritten by
//! [`super::expression`], values that are stored are checked, and macros get their defaults and further arguments the
//! way that Jinja passes them. Lines keep their numbers.

use super::expression::{Parser, quoted};
use super::lexer::{self, Inside, Kind, Token};
use super::{MAX_ARGUMENTS, MAX_BLOCK_DEPTH, Refusal, names};
use crate::{Error, Result};

/// The source as it is compiled.
pub(crate) fn prepare(source: &str, origin: &str) -> Result<String> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut rewriter = Rewriter { out: String::with_capacity(source.len() * 2), open: Vec::new(), rest: &source };
    rewriter.run().map_err(|refusal| {
        let line = source[..source.len() - rewriter.rest.len()].matches('\n').count() + 1;
        Error::invalid_model(format!("{origin} cannot be read: {refusal} (line {line})"))
    })?;
    Ok(rewriter.out)
}

struct Rewriter<'a> {
    out: String,
    /// Blocks that are open.
    open: Vec<Block>,
    /// From the tag that is read on.
    rest: &'a str,
}

struct Block {
    /// The statement that opened it.
    statement: String,
    /// What goes behind its end tag, up to what the macro uses.
    behind: String,
    /// Whether a macro speaks of `varargs`, `kwargs` and `caller`.
    uses: [bool; 3],
    /// How many levels it is, which grow with each `elif`.
    levels: usize,
}

impl Rewriter<'_> {
    fn run(&mut self) -> std::result::Result<(), Refusal> {
        while let Some(start) = self.rest.find('{') {
            let (before, tag) = self.rest.split_at(start);
            let kind = match tag.as_bytes().get(1) {
                Some(b'#') => {
                    self.data(before, tag.as_bytes().get(2) == Some(&b'-'));
                    self.comment(tag);
                    continue;
                }
                Some(b'{') => Kind::Variable,
                Some(b'%') => Kind::Block,
                _ => {
                    self.out.push_str(&self.rest[..=start]);
                    self.rest = &self.rest[start + 1..];
                    continue;
                }
            };
            let mark = tag[2..].chars().next().filter(|c| matches!(c, '-' | '+'));
            self.data(before, mark == Some('-'));
            self.rest = tag;
            let opening = 2 + mark.map_or(0, char::len_utf8);
            let Some(inside) = lexer::tag(&tag[opening..], kind)? else {
                return Err(Refusal::new("a tag has no end"));
            };
            self.out.push_str(&tag[..opening]);
            let end = opening + inside.length;
            let raw = kind == Kind::Block && inside.tokens == [Token::Name("raw".to_owned())];
            self.tag(kind, &inside, tag[..end].matches('\n').count())?;
            self.rest = &tag[end..];
            if raw {
                match inside.trims {
                    Some('+') => return Err(Refusal::new("`{% raw +%}` is not a tag")),
                    // Jinja keeps this line break, and the engine trims it.
                    None if self.rest.starts_with('\n') => self.out.push('\n'),
                    _ => {}
                }
                let length = raw_length(self.rest);
                self.out.push_str(&self.rest[..length]);
                self.rest = &self.rest[length..];
            } else if inside.trims == Some('-') {
                let rest = self.rest.trim_start_matches(lexer::is_space);
                self.trimmed(&self.rest[..self.rest.len() - rest.len()]);
                self.rest = rest;
            }
        }
        self.out.push_str(self.rest);
        Ok(())
    }

    /// Copies white space that the engine trims, with blanks for Python's four separators, which it would leave.
    fn trimmed(&mut self, space: &str) {
        self.out.extend(space.chars().map(|c| if ('\x1c'..='\x1f').contains(&c) { ' ' } else { c }));
    }

    fn data(&mut self, text: &str, trimmed: bool) {
        let kept = if trimmed { text.trim_end_matches(lexer::is_space) } else { text };
        self.out.push_str(kept);
        self.trimmed(&text[kept.len()..]);
    }

    fn comment(&mut self, tag: &str) {
        let length = tag[2..].find("#}").map_or(tag.len(), |end| end + 4);
        self.out.push_str(&tag[..length]);
        let rest_of = &self.rest[self.rest.len() - tag.len()..];
        self.rest = &rest_of[length..];
    }

    /// Writes one tag behind its opening.
    fn tag(&mut self, kind: Kind, inside: &Inside, lines: usize) -> std::result::Result<(), Refusal> {
        self.note_uses(&inside.tokens);
        let mut parser = Parser::new(&inside.tokens);
        let written = match kind {
            Kind::Variable => parser.tuple(true, &[])?.text,
            Kind::Block => self.statement(&mut parser)?,
        };
        parser.finish()?;
        self.out.extend([" ", &written, " "]);
        self.out.extend(std::iter::repeat_n('\n', lines));
        self.out.extend(inside.trims);
        self.out.push_str(if kind == Kind::Variable { "}}" } else { "%}" });
        Ok(())
    }

    fn note_uses(&mut self, tokens: &[Token]) {
        let Some(block) = self.open.iter_mut().rev().find(|block| block.statement == "macro") else { return };
        for (used, name) in block.uses.iter_mut().zip(["varargs", "kwargs", "caller"]) {
            *used |= tokens.iter().enumerate().any(|(at, token)| {
                let attribute = at > 0 && tokens[at - 1] == Token::Operator(".");
                !attribute && matches!(token, Token::Name(found) if found == name)
            });
        }
    }

    /// A statement between `{%` and `%}`. Several are written with these marks between.
    fn statement(&mut self, parser: &mut Parser<'_>) -> std::result::Result<String, Refusal> {
        let statement = parser.name()?;
        if let Some(opened) = statement.strip_prefix("end") {
            return self.end(statement, opened, parser);
        }
        let (written, opens) = match statement {
            "for" => (loop_over(parser)?, true),
            "if" => (format!("if {}", parser.tuple(false, &[])?.text), true),
            "elif" => {
                self.one_more_level()?;
                return Ok(format!("elif {}", parser.tuple(false, &[])?.text));
            }
            "else" | "raw" | "break" | "continue" => return Ok(statement.to_owned()),
            "set" => assignment(parser)?,
            "with" => (with(parser)?, true),
            "filter" => (format!("filter {} | {}", filter_chain(parser)?, names::WRITTEN), true),
            "macro" => {
                let (written, behind) = macro_head(parser)?;
                self.open_block(statement, behind)?;
                return Ok(written);
            }
            "call" => (call_head(parser)?, true),
            "block" if self.open.iter().all(|block| block.statement == "if") => (block_head(parser)?, true),
            "block" => return Err(Refusal::new("a block within a loop, a macro or another block is not supported")),
            // A block without effect, so that the white space around the tags is treated the same.
            "generation" => ("with".to_owned(), true),
            "autoescape" if parser.tuple(true, &[])?.text == "false" => ("with".to_owned(), true),
            "autoescape" | "include" | "extends" | "import" | "from" | "print" => {
                return Err(Refusal::new(format!("chat templates here have no `{{% {statement} %}}`")));
            }
            other => return Err(Refusal::new(format!("there is no statement `{other}`"))),
        };
        if opens {
            self.open_block(statement, String::new())?;
        }
        Ok(written)
    }

    fn open_block(&mut self, statement: &str, behind: String) -> std::result::Result<(), Refusal> {
        self.open.push(Block { statement: statement.to_owned(), behind, uses: [false; 3], levels: 0 });
        self.one_more_level()
    }

    fn one_more_level(&mut self) -> std::result::Result<(), Refusal> {
        if let Some(block) = self.open.last_mut() {
            block.levels += 1;
        }
        if self.open.iter().map(|block| block.levels).sum::<usize>() > MAX_BLOCK_DEPTH {
            let message = format!("blocks nest more than {MAX_BLOCK_DEPTH} levels deep (an `elif` is one)");
            return Err(Refusal::new(message));
        }
        Ok(())
    }

    fn end(&mut self, statement: &str, opened: &str, parser: &mut Parser<'_>) -> std::result::Result<String, Refusal> {
        let Some(block) = self.open.pop_if(|block| block.statement == opened) else {
            let expected = match self.open.last() {
                Some(block) => format!("`{{% {} %}}` is open", block.statement),
                None => "no block is open".to_owned(),
            };
            return Err(Refusal::new(format!("unexpected `{{% {statement} %}}`: {expected}")));
        };
        let name = if opened == "block" && parser.peek().is_some() { parser.name()? } else { "" };
        let statement = match opened {
            "generation" | "autoescape" => "endwith",
            _ => statement,
        };
        if opened == "macro" {
            let [varargs, kwargs, caller] = block.uses;
            return Ok(format!("endmacro{}, {varargs}, {kwargs}, {caller}))", block.behind));
        }
        Ok(format!("{statement} {name}"))
    }
}

/// Names to assign to: one, or several with commas between and in brackets.
fn target(parser: &mut Parser<'_>, ends: &[&str]) -> std::result::Result<String, Refusal> {
    target_with(parser, ends, None)
}

/// Names to assign to, with attributes of namespaces among them where those are asked for.
fn target_with(
    parser: &mut Parser<'_>,
    ends: &[&str],
    mut namespaces: Option<&mut Vec<String>>,
) -> std::result::Result<String, Refusal> {
    let (mut names, mut is_tuple) = (Vec::new(), false);
    loop {
        if parser.sees("=") || parser.sees(")") || ends.iter().any(|end| parser.sees_word(end)) {
            break;
        }
        names.push(if parser.take("(") {
            parser.enter()?;
            let inner = target_with(parser, &[], namespaces.as_deref_mut())?;
            parser.expect(")")?;
            parser.leave();
            inner
        } else {
            let name = assignable(parser)?;
            match namespaces.as_deref_mut().filter(|_| parser.take(".")) {
                None => name.to_owned(),
                Some(namespaces) => {
                    namespaces.push(name.to_owned());
                    format!("{name}.{}", parser.name()?)
                }
            }
        });
        if names.len() > MAX_BLOCK_DEPTH {
            return Err(Refusal::new("too many names are assigned to at once"));
        }
        if !parser.take(",") {
            break;
        }
        is_tuple = true;
    }
    match names.len() {
        0 => Err(parser.unexpected("a name")),
        1 if !is_tuple => Ok(names.remove(0)),
        1 => Ok(format!("({},)", names[0])),
        _ => Ok(format!("({})", names.join(", "))),
    }
}

fn assignable<'a>(parser: &mut Parser<'a>) -> std::result::Result<&'a str, Refusal> {
    match parser.name()? {
        name @ ("true" | "True" | "false" | "False" | "none" | "None") => {
            Err(Refusal::new(format!("`{name}` cannot be assigned to")))
        }
        name => Ok(name),
    }
}

fn loop_over(parser: &mut Parser<'_>) -> std::result::Result<String, Refusal> {
    let names = target(parser, &["in"])?;
    if names == "loop" {
        return Err(Refusal::new("`loop` cannot be what a loop assigns to"));
    }
    if !parser.take_word("in") {
        return Err(parser.unexpected("`in`"));
    }
    let items = parser.tuple(false, &["recursive"])?;
    let mut written = format!("for {names} in ({}|{})", items.text, names::ITERATE);
    if parser.take_word("if") {
        written += &format!(" if {}", parser.expression()?.text);
    }
    if parser.take_word("recursive") {
        written += " recursive";
    }
    Ok(written)
}

/// `set`, and whether it opens a block.
fn assignment(parser: &mut Parser<'_>) -> std::result::Result<(String, bool), Refusal> {
    let mut namespaces = Vec::new();
    let names = target_with(parser, &[], Some(&mut namespaces))?;
    if parser.take("=") {
        let value = parser.tuple(true, &[])?.text;
        let check = match namespaces.len() {
            0 => names::STORED.to_owned(),
            _ => format!("{}({})", names::WITHIN, namespaces.join(", ")),
        };
        return Ok((format!("set {names} = ({value}|{check})"), false));
    }
    if parser.take("|") {
        return Ok((format!("set {names} | {}", filter_chain(parser)?), true));
    }
    Ok((format!("set {names}"), true))
}

/// Filters that a block's text goes through.
fn filter_chain(parser: &mut Parser<'_>) -> std::result::Result<String, Refusal> {
    let mut filters = Vec::new();
    loop {
        let (name, arguments, _) = parser.filter_call()?;
        filters.push(format!("{name}({arguments})"));
        if filters.len() > MAX_BLOCK_DEPTH {
            return Err(Refusal::new(format!("more than {MAX_BLOCK_DEPTH} filters follow one another")));
        }
        if !parser.take("|") {
            return Ok(filters.join(" | "));
        }
    }
}

/// `with`, whose values see none of its names.
fn with(parser: &mut Parser<'_>) -> std::result::Result<String, Refusal> {
    let (mut names, mut values) = (Vec::new(), Vec::new());
    while parser.peek().is_some() {
        if !names.is_empty() {
            parser.expect(",")?;
        }
        names.push(target(parser, &[])?);
        parser.expect("=")?;
        values.push(format!("({}|{})", parser.expression()?.text, names::STORED));
    }
    Ok(match names.len() {
        0 => "with".to_owned(),
        _ => format!("with ({},) = ({},)", names.join(", "), values.join(", ")),
    })
}

/// Parameters of a macro or of a call block, and what gives those their defaults that got no argument.
fn parameters(parser: &mut Parser<'_>) -> std::result::Result<(Vec<String>, String), Refusal> {
    parser.expect("(")?;
    let (mut names, mut defaults) = (Vec::new(), String::new());
    while !parser.take(")") {
        if !names.is_empty() {
            parser.expect(",")?;
        }
        let name = assignable(parser)?.to_owned();
        if names.contains(&name) {
            return Err(Refusal::new(format!("the parameter `{name}` is there twice")));
        }
        if parser.take("=") {
            let value = parser.expression()?.text;
            let missing = names::MISSING;
            defaults += &format!(" %}}{{% if {name} is {missing} %}}{{% set {name} = {value} %}}{{% endif");
        } else if !defaults.is_empty() {
            return Err(Refusal::new("a parameter without a default follows one with a default"));
        }
        names.push(name);
        if names.len() > MAX_ARGUMENTS {
            return Err(Refusal::new(format!("a macro has more than {MAX_ARGUMENTS} parameters")));
        }
    }
    Ok((names, defaults))
}

/// The head of a macro, and what goes behind its end: the macro is wrapped, so that it takes arguments as Jinja's do.
fn macro_head(parser: &mut Parser<'_>) -> std::result::Result<(String, String), Refusal> {
    let name = assignable(parser)?.to_owned();
    let (parameters, defaults) = parameters(parser)?;
    let further = ["varargs", "kwargs"].into_iter().filter(|name| !parameters.iter().any(|own| own == name));
    let all: Vec<&str> = parameters.iter().map(String::as_str).chain(further).collect();
    let quoted: Vec<String> = parameters.iter().map(|name| quoted(name)).collect();
    let behind = format!(
        " %}}{{% set {name} = ({name}|{}('{name}', [{}], {}",
        names::MACRO,
        quoted.join(", "),
        defaults.matches("endif").count()
    );
    Ok((format!("macro {name}({}){defaults}", all.join(", ")), behind))
}

fn call_head(parser: &mut Parser<'_>) -> std::result::Result<String, Refusal> {
    let parameters = if parser.sees("(") {
        let (names, defaults) = parameters(parser)?;
        if !defaults.is_empty() {
            return Err(Refusal::new("parameters of a call block have no defaults here"));
        }
        format!("({})", names.join(", "))
    } else {
        String::new()
    };
    let call = parser.expression()?;
    Ok(format!("call{parameters} {}", call.text))
}

fn block_head(parser: &mut Parser<'_>) -> std::result::Result<String, Refusal> {
    let name = parser.name()?;
    if parser.peek().is_some() {
        return Err(Refusal::new("blocks that are `scoped` or `required` are not supported"));
    }
    Ok(format!("block {name}"))
}

/// Length of what a `{% raw %}` block holds, with its end tag.
fn raw_length(rest: &str) -> usize {
    let mut at = 0;
    while let Some(start) = rest[at..].find("{%") {
        let inner = &rest[at + start + 2..];
        let end = inner.find("%}").unwrap_or(inner.len());
        let body = inner[..end].trim_start_matches(['-', '+']).trim_end_matches(['-', '+']);
        if body.trim() == "endraw" {
            return rest.len().min(at + start + 2 + end + 2);
        }
        at += start + 2;
    }
    rest.len()
}
