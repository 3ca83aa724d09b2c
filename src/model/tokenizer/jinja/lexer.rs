//! Cuts what stands between `{{` and `}}`, or `{%` and `%}`, into tokens, by the rules of Jinja's own lexer.

use super::Refusal;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Name(String),
    Text(String),
    /// As the template engine reads it.
    Integer(String),
    Float(f64),
    Operator(&'static str),
}

/// What ends a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Variable,
    Block,
}

/// The tokens of one tag.
pub(super) struct Inside {
    pub(super) tokens: Vec<Token>,
    /// The mark of white-space control before the tag's end.
    pub(super) trims: Option<char>,
    /// Bytes up to and with the tag's end.
    pub(super) length: usize,
}

const OPERATORS: [&str; 28] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";", "@", "`",
];

impl Kind {
    fn end(self) -> &'static str {
        match self {
            Kind::Variable => "}}",
            Kind::Block => "%}",
        }
    }
}

/// Reads the tag that begins at `rest`, behind its opening and the mark after that; `None` where it has no end.
pub(super) fn tag(rest: &str, kind: Kind) -> Result<Option<Inside>, Refusal> {
    let mut tokens = Vec::new();
    let mut open: Vec<&'static str> = Vec::new();
    let mut at = 0;
    loop {
        let text = &rest[at..];
        let Some(c) = text.chars().next() else { return Ok(None) };
        if let Some((trims, length)) = end_of_tag(text, kind).filter(|_| open.is_empty()) {
            return Ok(Some(Inside { tokens, trims, length: at + length }));
        }
        if is_space(c) {
            at += c.len_utf8();
            continue;
        }
        let after_dot = tokens.last() == Some(&Token::Operator("."));
        let (token, length) = if c.is_ascii_digit() {
            number(text, after_dot)?
        } else if c == '_' || c.is_alphanumeric() {
            name(text)
        } else if c == '\'' || c == '"' {
            let Some(found) = string(text)? else { return Ok(None) };
            found
        } else {
            operator(text, &mut open)?
        };
        tokens.push(token);
        at += length;
    }
}

fn end_of_tag(text: &str, kind: Kind) -> Option<(Option<char>, usize)> {
    let mark = text.chars().next().filter(|c| *c == '-' || (*c == '+' && kind == Kind::Block));
    let length = mark.map_or(0, char::len_utf8);
    if text[length..].starts_with(kind.end()) {
        return Some((mark, length + kind.end().len()));
    }
    None
}

/// Python's white space, which has four separators more than Unicode's property.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

fn name(text: &str) -> (Token, usize) {
    let end = text.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(text.len());
    // The engine refuses what begins with a digit or isn't a letter of an identifier, as Python does.
    (Token::Name(text[..end].to_owned()), end)
}

fn operator(text: &str, open: &mut Vec<&'static str>) -> Result<(Token, usize), Refusal> {
    let Some(operator) = OPERATORS.into_iter().find(|operator| text.starts_with(operator)) else {
        let c = text.chars().next().unwrap_or_default();
        return Err(Refusal::new(format!("unexpected character {c:?}")));
    };
    match operator {
        "(" | "[" | "{" => open.push(operator),
        ")" | "]" | "}" => {
            let opening = match operator {
                ")" => "(",
                "]" => "[",
                _ => "{",
            };
            if open.pop() != Some(opening) {
                return Err(Refusal::new(format!("unbalanced brackets: unexpected `{operator}`")));
            }
        }
        "@" | "`" => return Err(Refusal::new(format!("unexpected character `{operator}`"))),
        _ => {}
    }
    Ok((Token::Operator(operator), operator.len()))
}

/// Digits with single underscores between them.
fn digits(text: &str, radix: u32) -> usize {
    let mut end = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let is_separator = c == '_' && end > 0 && chars.peek().is_some_and(|(_, next)| next.is_digit(radix));
        if !c.is_digit(radix) && !is_separator {
            break;
        }
        end = at + 1;
    }
    end
}

fn number(text: &str, after_dot: bool) -> Result<(Token, usize), Refusal> {
    let radix = match text.as_bytes().get(1).map(u8::to_ascii_lowercase) {
        Some(b'x') if text.starts_with('0') => 16,
        Some(b'o') if text.starts_with('0') => 8,
        Some(b'b') if text.starts_with('0') => 2,
        _ => 10,
    };
    if radix != 10 {
        let start = 2 + usize::from(text[2..].starts_with('_'));
        let length = digits(&text[start..], radix);
        if length > 0 {
            return integer(&text[start..start + length], radix).map(|token| (token, start + length));
        }
    }
    let whole = digits(text, 10);
    if let Some(length) = float_length(text, whole).filter(|_| !after_dot) {
        let value: f64 = text[..length].replace('_', "").parse().unwrap_or(f64::INFINITY);
        return Ok((Token::Float(value), length));
    }
    // A zero begins no other number than zero.
    let length =
        if text.starts_with('0') { text[..whole].find(|c: char| c != '0' && c != '_').unwrap_or(whole) } else { whole };
    integer(&text[..length], 10).map(|token| (token, length))
}

fn float_length(text: &str, whole: usize) -> Option<usize> {
    let fraction = match text[whole..].strip_prefix('.') {
        Some(rest) => digits(rest, 10),
        None => 0,
    };
    let mantissa = if fraction > 0 { whole + 1 + fraction } else { whole };
    let exponent = text[mantissa..].strip_prefix(['e', 'E']).and_then(|rest| {
        let sign = usize::from(rest.starts_with(['+', '-']));
        let length = digits(&rest[sign..], 10);
        (length > 0).then_some(1 + sign + length)
    });
    match exponent {
        Some(exponent) => Some(mantissa + exponent),
        None => (fraction > 0).then_some(mantissa),
    }
}

fn integer(digits: &str, radix: u32) -> Result<Token, Refusal> {
    match i128::from_str_radix(&digits.replace('_', ""), radix) {
        Ok(value) => Ok(Token::Integer(value.to_string())),
        Err(_) => Err(Refusal::new(format!("the number {digits} has more than 127 bits"))),
    }
}

/// A string with its escapes read as Python reads them; `None` where it has no end.
fn string(text: &str) -> Result<Option<(Token, usize)>, Refusal> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    let Some((_, quote)) = chars.next() else { return Ok(None) };
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Ok(Some((Token::Text(out), at + quote.len_utf8())));
        }
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some((_, escaped)) = chars.next() else { return Ok(None) };
        let length = escape(&mut out, escaped, &text[at + 1..])?;
        for _ in 1..length {
            chars.next();
        }
    }
    Ok(None)
}

/// Writes what an escape stands for, and returns how many characters behind the backslash it has.
fn escape(out: &mut String, escaped: char, rest: &str) -> Result<usize, Refusal> {
    let plain = match escaped {
        '\n' => return Ok(1),
        '\\' | '\'' | '"' => escaped,
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        '0'..='7' => {
            let length = rest.bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
            out.extend(u32::from_str_radix(&rest[..length], 8).ok().and_then(char::from_u32));
            return Ok(length);
        }
        'x' | 'u' | 'U' => {
            let length = match escaped {
                'x' => 2,
                'u' => 4,
                _ => 8,
            };
            let code = rest.get(1..=length).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
            let found = code.and_then(|code| u32::from_str_radix(code, 16).ok()).and_then(char::from_u32);
            let Some(c) = found else {
                return Err(Refusal::new(format!("a string has an escape `\\{escaped}` without a character's number")));
            };
            out.push(c);
            return Ok(1 + length);
        }
        'N' => return Err(Refusal::new("a string names a character by `\\N{…}`; write the character itself")),
        // Python knows no other: it keeps the backslash. A character beyond ASCII becomes its number first.
        other if !other.is_ascii() => {
            return Err(Refusal::new(format!("a string has a backslash before `{other}`; double the backslash")));
        }
        other => {
            out.push('\\');
            other
        }
    };
    out.push(plain);
    Ok(1)
}
