//! Reads an expression by Jinja's grammar, and writes it as the template engine shall run it.
//!
//! Operators, attributes, subscripts and method calls become filters, which do what Python does (see
//! [`super::operators`] and [`super::access`]). How deeply an expression nests is counted on the way, since the
//! engine's compiler needs stack for each level.

use super::lexer::Token;
use super::{MAX_ARGUMENTS, MAX_EXPRESSION_DEPTH, Refusal, access, names};

/// An expression as it shall be compiled.
pub(super) struct Expression {
    pub(super) text: String,
    /// Levels of the tree that the engine makes of it.
    depth: usize,
    /// It is a literal, all through.
    literal: bool,
    /// The name alone that it is.
    name: Option<String>,
    /// Object and attribute, where it ends with one.
    attribute: Option<(String, String)>,
}

impl Expression {
    fn atom(text: impl Into<String>) -> Self {
        Expression { text: text.into(), depth: 1, literal: false, name: None, attribute: None }
    }
}

/// Reads the tokens of a tag.
pub(super) struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    /// Brackets and operators that are being read.
    nesting: usize,
}

/// Comparison operators, as they are written in templates.
const COMPARISONS: [&str; 6] = ["==", "!=", "<", "<=", ">", ">="];

impl<'a> Parser<'a> {
    pub(super) fn new(tokens: &'a [Token]) -> Self {
        Parser { tokens, at: 0, nesting: 0 }
    }

    pub(super) fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    pub(super) fn next(&mut self) -> Option<&'a Token> {
        let token = self.tokens.get(self.at);
        self.at += 1;
        token
    }

    pub(super) fn sees(&self, operator: &str) -> bool {
        matches!(self.peek(), Some(Token::Operator(found)) if *found == operator)
    }

    pub(super) fn sees_word(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if found == word)
    }

    pub(super) fn take(&mut self, operator: &str) -> bool {
        let seen = self.sees(operator);
        self.at += usize::from(seen);
        seen
    }

    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let seen = self.sees_word(word);
        self.at += usize::from(seen);
        seen
    }

    pub(super) fn expect(&mut self, operator: &str) -> Result<(), Refusal> {
        if self.take(operator) {
            return Ok(());
        }
        Err(self.unexpected(&format!("`{operator}`")))
    }

    pub(super) fn finish(&self) -> Result<(), Refusal> {
        if self.at >= self.tokens.len() { Ok(()) } else { Err(self.unexpected("the end of the tag")) }
    }

    pub(super) fn unexpected(&self, expected: &str) -> Refusal {
        let found = match self.peek() {
            None => "the end of the tag".to_owned(),
            Some(Token::Name(name)) => format!("`{name}`"),
            Some(Token::Operator(operator)) => format!("`{operator}`"),
            Some(Token::Text(_)) => "a string".to_owned(),
            Some(Token::Integer(_) | Token::Float(_)) => "a number".to_owned(),
        };
        Refusal::new(format!("expected {expected}, found {found}"))
    }

    pub(super) fn name(&mut self) -> Result<&'a str, Refusal> {
        match self.peek() {
            Some(Token::Name(name)) => {
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    /// An expression, or several with commas between, which are a tuple. Without brackets a list of none is refused.
    pub(super) fn tuple(&mut self, conditional: bool, ends: &[&str]) -> Result<Expression, Refusal> {
        let (mut items, is_tuple) = self.items(conditional, ends)?;
        match items.pop() {
            Some(only) if !is_tuple => Ok(only),
            Some(last) => {
                items.push(last);
                sequence("(", items, ",)")
            }
            None => Err(self.unexpected("an expression")),
        }
    }

    fn items(&mut self, conditional: bool, ends: &[&str]) -> Result<(Vec<Expression>, bool), Refusal> {
        let mut items = Vec::new();
        loop {
            let ended = self.peek().is_none() || self.sees(")") || ends.iter().any(|end| self.sees_word(end));
            if ended {
                let is_tuple = !items.is_empty();
                return Ok((items, is_tuple));
            }
            items.push(if conditional { self.expression()? } else { self.or()? });
            if !self.take(",") {
                let is_tuple = items.len() > 1;
                return Ok((items, is_tuple));
            }
        }
    }

    /// One expression, with `… if … else …`.
    pub(super) fn expression(&mut self) -> Result<Expression, Refusal> {
        self.enter()?;
        let mut expression = self.or()?;
        while self.take_word("if") {
            let condition = self.or()?;
            let depth = expression.depth.max(condition.depth);
            expression = if self.take_word("else") {
                let other = self.expression()?;
                let text = format!("({} if {} else {})", expression.text, condition.text, other.text);
                node(text, depth.max(other.depth))?
            } else {
                node(format!("({} if {})", expression.text, condition.text), depth)?
            };
        }
        self.leave();
        Ok(expression)
    }

    /// Goes one level down; fails where that is too deep.
    pub(super) fn enter(&mut self) -> Result<(), Refusal> {
        self.nesting += 1;
        if self.nesting > MAX_EXPRESSION_DEPTH { Err(too_deep()) } else { Ok(()) }
    }

    pub(super) fn leave(&mut self) {
        self.nesting -= 1;
    }

    fn or(&mut self) -> Result<Expression, Refusal> {
        let mut operands = vec![self.and()?];
        while self.take_word("or") {
            operands.push(self.and()?);
        }
        balanced("or", operands)
    }

    fn and(&mut self) -> Result<Expression, Refusal> {
        let mut operands = vec![self.not()?];
        while self.take_word("and") {
            operands.push(self.not()?);
        }
        balanced("and", operands)
    }

    fn not(&mut self) -> Result<Expression, Refusal> {
        if !self.take_word("not") {
            return self.comparison();
        }
        self.enter()?;
        let operand = self.not()?;
        self.leave();
        node(format!("(not {})", operand.text), operand.depth)
    }

    fn comparison(&mut self) -> Result<Expression, Refusal> {
        let first = self.sum()?;
        let (mut arguments, mut depth) = (String::new(), first.depth);
        loop {
            let operator = if let Some(found) = COMPARISONS.into_iter().find(|operator| self.sees(operator)) {
                self.at += 1;
                found
            } else if self.take_word("in") {
                "in"
            } else if self.sees_word("not") && matches!(self.tokens.get(self.at + 1), Some(Token::Name(n)) if n == "in")
            {
                self.at += 2;
                "not in"
            } else {
                break;
            };
            let operand = self.sum()?;
            depth = depth.max(operand.depth);
            arguments += &format!("{}'{operator}', {}", if arguments.is_empty() { "" } else { ", " }, operand.text);
        }
        if arguments.is_empty() { Ok(first) } else { filter(&first, depth, names::COMPARE, &arguments) }
    }

    fn sum(&mut self) -> Result<Expression, Refusal> {
        self.left(Self::concatenation, &[("+", names::ADD), ("-", names::SUBTRACT)])
    }

    fn concatenation(&mut self) -> Result<Expression, Refusal> {
        self.left(Self::product, &[("~", names::CONCATENATE)])
    }

    fn product(&mut self) -> Result<Expression, Refusal> {
        let operators = [("*", names::MULTIPLY), ("//", names::FLOOR), ("/", names::DIVIDE), ("%", names::REMAINDER)];
        self.left(Self::power, &operators)
    }

    fn power(&mut self) -> Result<Expression, Refusal> {
        self.left(|parser| parser.unary(true), &[("**", names::POWER)])
    }

    /// Operators of one rank. A run of the same one becomes one filter with many arguments, for a template may join
    /// dozens of texts.
    fn left(
        &mut self,
        operand: impl Fn(&mut Self) -> Result<Expression, Refusal>,
        operators: &[(&str, &str)],
    ) -> Result<Expression, Refusal> {
        let mut left = operand(self)?;
        while let Some((operator, name)) = operators.iter().find(|(operator, _)| self.sees(operator)) {
            let (mut arguments, mut depth) = (Vec::new(), left.depth);
            while self.take(operator) {
                let right = operand(self)?;
                depth = depth.max(right.depth);
                arguments.push(right.text);
            }
            left = filter(&left, depth, name, &arguments.join(", "))?;
        }
        Ok(left)
    }

    fn unary(&mut self, with_filters: bool) -> Result<Expression, Refusal> {
        let sign = [("-", names::NEGATIVE), ("+", names::POSITIVE)].into_iter().find(|(sign, _)| self.take(sign));
        let expression = match sign {
            Some((_, name)) => {
                self.enter()?;
                let operand = self.unary(false)?;
                self.leave();
                filter(&operand, operand.depth, name, "")?
            }
            None => self.primary()?,
        };
        let expression = self.postfix(expression)?;
        if with_filters { self.filters(expression) } else { Ok(expression) }
    }

    fn primary(&mut self) -> Result<Expression, Refusal> {
        let literal = |text: &str| Ok(Expression { literal: true, ..Expression::atom(text) });
        match self.next() {
            Some(Token::Name(name)) => match name.as_str() {
                "true" | "True" => literal("true"),
                "false" | "False" => literal("false"),
                "none" | "None" => literal("none"),
                "and" | "or" | "not" | "if" | "else" | "in" | "is" => {
                    Err(Refusal::new(format!("`{name}` stands where a value should")))
                }
                "self" if !self.calls_a_block() => Err(Refusal::new("`self` is supported in `self.block()` alone")),
                name => Ok(Expression { name: Some(name.to_owned()), ..Expression::atom(name) }),
            },
            Some(Token::Text(text)) => {
                let mut text = text.clone();
                while let Some(Token::Text(more)) = self.peek() {
                    text += more;
                    self.at += 1;
                }
                literal(&quoted(&text))
            }
            Some(Token::Integer(digits)) => literal(digits),
            Some(Token::Float(value)) if value.is_finite() => literal(&format!("{value:?}")),
            Some(Token::Float(_)) => filter(&Expression::atom("'inf'"), 1, "float", ""),
            Some(Token::Operator("(")) => self.parenthesised(),
            Some(Token::Operator("[")) => {
                let items = self.list()?;
                sequence("[", items, "]")
            }
            Some(Token::Operator("{")) => self.dict(),
            _ => {
                self.at -= 1;
                Err(self.unexpected("a value"))
            }
        }
    }

    /// Whether `.name(` follows.
    fn calls_a_block(&self) -> bool {
        matches!(
            self.tokens.get(self.at..self.at + 3),
            Some([Token::Operator("."), Token::Name(_), Token::Operator("(")])
        )
    }

    fn parenthesised(&mut self) -> Result<Expression, Refusal> {
        self.enter()?;
        let (mut items, is_tuple) = self.items(true, &[])?;
        self.expect(")")?;
        self.leave();
        if is_tuple || items.is_empty() {
            let end = if items.is_empty() { ")" } else { ",)" };
            return sequence("(", items, end);
        }
        let inner = items.remove(0);
        let attribute = inner.attribute.clone();
        Ok(Expression { attribute, ..Expression { text: format!("({})", inner.text), ..inner } })
    }

    fn list(&mut self) -> Result<Vec<Expression>, Refusal> {
        self.enter()?;
        let mut items = Vec::new();
        while !self.sees("]") {
            if !items.is_empty() {
                self.expect(",")?;
            }
            if self.sees("]") {
                break;
            }
            items.push(self.expression()?);
        }
        self.expect("]")?;
        self.leave();
        Ok(items)
    }

    fn dict(&mut self) -> Result<Expression, Refusal> {
        self.enter()?;
        let mut items = Vec::new();
        while !self.sees("}") {
            if !items.is_empty() {
                self.expect(",")?;
            }
            if self.sees("}") {
                break;
            }
            let key = self.expression()?;
            self.expect(":")?;
            let value = self.expression()?;
            let text = format!("{}: {}", key.text, value.text);
            let literal = key.literal && value.literal && !key.text.starts_with(['[', '{', '(']);
            items.push(Expression { literal, ..node(text, key.depth.max(value.depth))? });
        }
        self.expect("}")?;
        self.leave();
        sequence("{", items, "}")
    }

    fn postfix(&mut self, mut expression: Expression) -> Result<Expression, Refusal> {
        loop {
            expression = if self.take(".") {
                self.attribute(expression)?
            } else if self.take("[") {
                self.subscript(expression)?
            } else if self.sees("(") {
                self.call(expression)?
            } else {
                return Ok(expression);
            };
        }
    }

    fn attribute(&mut self, object: Expression) -> Result<Expression, Refusal> {
        match self.next() {
            Some(Token::Integer(digits)) => filter(&object, object.depth, names::ITEM, digits),
            Some(Token::Name(name)) => {
                let attribute = Some((object.text.clone(), name.clone()));
                let own = matches!(object.name.as_deref(), Some("loop" | "self"));
                let read = if !own && access::is_python_attribute(name) {
                    filter(&object, object.depth, names::ATTRIBUTE, &quoted(name))?
                } else {
                    node(format!("{}.{name}", bracketed(&object)), object.depth)?
                };
                let attribute = attribute.filter(|_| !own);
                Ok(Expression { attribute, ..read })
            }
            _ => {
                self.at -= 1;
                Err(self.unexpected("a name or a number"))
            }
        }
    }

    fn subscript(&mut self, object: Expression) -> Result<Expression, Refusal> {
        self.enter()?;
        let mut keys = Vec::new();
        let mut slice = None;
        while !self.sees("]") {
            if !keys.is_empty() {
                self.expect(",")?;
            }
            let key = if self.sees(":") { None } else { Some(self.expression()?) };
            match (key, self.sees(":")) {
                (Some(key), false) => keys.push(key),
                (start, _) => {
                    slice = Some(self.slice(start)?);
                    break;
                }
            }
        }
        self.expect("]")?;
        self.leave();
        match (slice, keys.pop()) {
            (Some((text, depth)), None) => filter(&object, object.depth.max(depth), names::SLICE, &text),
            (Some(_), _) => Err(Refusal::new("a slice within a tuple of subscripts is not supported")),
            (None, None) => Err(Refusal::new("a subscript is empty")),
            (None, Some(key)) if keys.is_empty() => {
                filter(&object, object.depth.max(key.depth), names::ITEM, &key.text)
            }
            (None, Some(last)) => {
                keys.push(last);
                let key = sequence("(", keys, ",)")?;
                filter(&object, object.depth.max(key.depth), names::ITEM, &key.text)
            }
        }
    }

    /// The rest of a slice, from its first colon.
    fn slice(&mut self, start: Option<Expression>) -> Result<(String, usize), Refusal> {
        let mut bounds = vec![start];
        while bounds.len() < 3 && self.take(":") {
            let empty = self.sees(":") || self.sees("]");
            bounds.push(if empty { None } else { Some(self.expression()?) });
        }
        let depth = bounds.iter().flatten().map(|bound| bound.depth).max().unwrap_or(1);
        let texts = bounds.into_iter().map(|bound| bound.map_or_else(|| "none".to_owned(), |bound| bound.text));
        Ok((texts.collect::<Vec<_>>().join(", "), depth))
    }

    fn call(&mut self, callee: Expression) -> Result<Expression, Refusal> {
        let (arguments, depth) = self.arguments()?;
        let depth = depth.max(callee.depth);
        if let Some((object, name)) = &callee.attribute {
            let separator = if arguments.is_empty() { "" } else { ", " };
            let object = Expression::atom(object.clone());
            return filter(&object, depth, names::METHOD, &format!("{}{separator}{arguments}", quoted(name)));
        }
        if callee.name.as_deref() == Some("loop") && !arguments.is_empty() {
            return node(format!("loop(({arguments})|{})", names::ITERATE), depth);
        }
        let text = if callee.name.is_some() { callee.text } else { bracketed(&callee) };
        node(format!("{text}({arguments})"), depth)
    }

    /// Arguments with their brackets, as one text without them.
    pub(super) fn arguments(&mut self) -> Result<(String, usize), Refusal> {
        self.expect("(")?;
        self.enter()?;
        let (mut texts, mut depth): (Vec<String>, usize) = (Vec::new(), 1);
        let (mut named, mut spread): (Vec<&str>, bool) = (Vec::new(), false);
        while !self.take(")") {
            if !texts.is_empty() {
                self.expect(",")?;
                if self.take(")") {
                    break;
                }
            }
            let prefix = if self.take("**") {
                spread = true;
                "**".to_owned()
            } else if self.take("*") {
                "*".to_owned()
            } else if let (Some(Token::Name(name)), Some(Token::Operator("="))) =
                (self.peek(), self.tokens.get(self.at + 1))
            {
                self.at += 2;
                if named.contains(&name.as_str()) {
                    return Err(Refusal::new(format!("the argument `{name}` is given twice")));
                }
                named.push(name);
                format!("{name}=")
            } else if named.is_empty() && !spread {
                String::new()
            } else {
                return Err(Refusal::new("an argument without a name follows one with a name"));
            };
            let value = self.expression()?;
            depth = depth.max(value.depth);
            texts.push(prefix + &value.text);
            if texts.len() > MAX_ARGUMENTS {
                return Err(Refusal::new(format!("a call has more than {MAX_ARGUMENTS} arguments")));
            }
        }
        self.leave();
        Ok((texts.join(", "), depth))
    }

    fn filters(&mut self, mut expression: Expression) -> Result<Expression, Refusal> {
        loop {
            if self.take("|") {
                let (name, arguments, depth) = self.filter_call()?;
                let depth = depth.max(expression.depth);
                expression = filter(&expression, depth, &name, &arguments)?;
            } else if self.take_word("is") {
                expression = self.test(&expression)?;
            } else if self.sees("(") {
                expression = self.call(expression)?;
            } else {
                return Ok(expression);
            }
        }
    }

    /// A filter's name and arguments.
    pub(super) fn filter_call(&mut self) -> Result<(String, String, usize), Refusal> {
        let name = self.dotted_name()?;
        let (arguments, depth) = if self.sees("(") { self.arguments()? } else { (String::new(), 1) };
        Ok((name, arguments, depth))
    }

    fn dotted_name(&mut self) -> Result<String, Refusal> {
        let mut name = self.name()?.to_owned();
        while self.take(".") {
            name = format!("{name}.{}", self.name()?);
        }
        if name.starts_with(names::PREFIX) {
            return Err(Refusal::new(format!("there is no filter or test `{name}`")));
        }
        Ok(name)
    }

    fn test(&mut self, operand: &Expression) -> Result<Expression, Refusal> {
        let negated = self.take_word("not");
        let name = self.dotted_name()?;
        let follows = match self.peek() {
            Some(Token::Name(word)) if word == "is" => {
                return Err(Refusal::new("tests cannot be chained: `… is … is …`"));
            }
            Some(Token::Name(word)) => !matches!(word.as_str(), "else" | "or" | "and"),
            Some(Token::Text(_) | Token::Integer(_) | Token::Float(_)) => true,
            Some(Token::Operator(operator)) => matches!(*operator, "[" | "{"),
            None => false,
        };
        let (arguments, depth) = if self.sees("(") {
            self.arguments()?
        } else if follows {
            let argument = self.primary()?;
            let argument = self.postfix(argument)?;
            (argument.text, argument.depth)
        } else {
            (String::new(), 1)
        };
        let call = if arguments.is_empty() { String::new() } else { format!("({arguments})") };
        let not = if negated { "not " } else { "" };
        node(format!("({} is {not}{name}{call})", operand.text), depth.max(operand.depth))
    }
}

fn too_deep() -> Refusal {
    Refusal::new(format!("an expression nests more than {MAX_EXPRESSION_DEPTH} levels deep"))
}

/// An expression one level above those that it holds.
fn node(text: String, depth: usize) -> Result<Expression, Refusal> {
    if depth >= MAX_EXPRESSION_DEPTH {
        Err(too_deep())
    } else {
        Ok(Expression { depth: depth + 1, ..Expression::atom(text) })
    }
}

fn filter(object: &Expression, depth: usize, name: &str, arguments: &str) -> Result<Expression, Refusal> {
    let arguments = if arguments.is_empty() { String::new() } else { format!("({arguments})") };
    node(format!("({}|{name}{arguments})", object.text), depth)
}

fn bracketed(expression: &Expression) -> String {
    let is_simple = expression.name.is_some() || expression.text.starts_with('(');
    if is_simple { expression.text.clone() } else { format!("({})", expression.text) }
}

/// Operands of `and` or `or` as a tree of few levels, which gives the same value.
fn balanced(operator: &str, mut operands: Vec<Expression>) -> Result<Expression, Refusal> {
    if operands.len() == 1 {
        return Ok(operands.remove(0));
    }
    let right = balanced(operator, operands.split_off(operands.len() / 2))?;
    let left = balanced(operator, operands)?;
    node(format!("({} {operator} {})", left.text, right.text), left.depth.max(right.depth))
}

/// A list, tuple or dict. What isn't made of literals alone is looked at as it is made: it could nest without end.
fn sequence(start: &str, items: Vec<Expression>, end: &str) -> Result<Expression, Refusal> {
    let depth = items.iter().map(|item| item.depth).max().unwrap_or(1);
    let literal = items.iter().all(|item| item.literal);
    let texts: Vec<String> = items.into_iter().map(|item| item.text).collect();
    let whole = Expression::atom(format!("{start}{}{end}", texts.join(", ")));
    if literal {
        return Ok(Expression { literal, ..node(whole.text, depth)? });
    }
    filter(&whole, depth, names::MADE, "")
}

/// A string literal as the template engine reads it.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\n"))
}
