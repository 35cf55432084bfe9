//! Label and field selectors as Kubernetes writes them in query strings.
//!
//! Pure: text in, requirements out, or an error in the words API servers use. Nothing that is not understood is ignored.

use std::fmt;

/// Longest selector that is read, in bytes.
const LENGTH: usize = 64 << 10;
/// Most requirements of one selector.
const REQUIREMENTS: usize = 1000;

/// A selector that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);

fn check_size(text: &str) -> Result<(), SelectorError> {
    if text.len() > LENGTH {
        return Err(SelectorError(format!("the selector has {} bytes; at most {LENGTH} are read", text.len())));
    }
    Ok(())
}

/// Conditions on labels; all must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<LabelRequirement>,
}

/// One condition on a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelRequirement {
    key: String,
    operator: LabelOperator,
    values: Vec<String>,
}

/// What is asked of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelOperator {
    /// It has one of the values.
    In,
    /// It has none of the values, or is absent.
    NotIn,
    /// It is present.
    Exists,
    /// It is absent.
    DoesNotExist,
    /// It is an integer above the value.
    GreaterThan,
    /// It is an integer below the value.
    LessThan,
}

impl LabelRequirement {
    /// The label's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What is asked.
    pub fn operator(&self) -> LabelOperator {
        self.operator
    }

    /// The values named, none for existence.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let number = |text: &str| text.parse::<i64>().ok();
        let compare = |test: fn(i64, i64) -> bool| {
            let bound = self.values.first().and_then(|text| number(text));
            value.and_then(number).zip(bound).is_some_and(|(value, bound)| test(value, bound))
        };
        let is_named = value.is_some_and(|value| self.values.iter().any(|one| one == value));
        match self.operator {
            LabelOperator::In => is_named,
            LabelOperator::NotIn => !is_named,
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
            LabelOperator::GreaterThan => compare(|value, bound| value > bound),
            LabelOperator::LessThan => compare(|value, bound| value < bound),
        }
    }
}

impl LabelSelector {
    /// Reads a selector; the empty one matches everything.
    ///
    /// # Errors
    /// Says what was found and what was expected.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        check_size(text)?;
        let mut parser = Parser { tokens: lex(text), at: 0 };
        let requirements = parser.requirements()?;
        if requirements.len() > REQUIREMENTS {
            let count = requirements.len();
            return Err(SelectorError(format!(
                "the selector has {count} requirements; at most {REQUIREMENTS} are read"
            )));
        }
        Ok(Self { requirements })
    }

    /// The conditions.
    pub fn requirements(&self) -> &[LabelRequirement] {
        &self.requirements
    }

    /// Whether labels, looked up by key, meet all conditions.
    pub fn matches<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(lookup(&requirement.key)))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, LabelRequirement { key, operator, values }) in self.requirements.iter().enumerate() {
            if index > 0 {
                formatter.write_str(",")?;
            }
            let listed = values.join(",");
            match operator {
                LabelOperator::In => write!(formatter, "{key} in ({listed})")?,
                LabelOperator::NotIn => write!(formatter, "{key} notin ({listed})")?,
                LabelOperator::Exists => write!(formatter, "{key}")?,
                LabelOperator::DoesNotExist => write!(formatter, "!{key}")?,
                LabelOperator::GreaterThan => write!(formatter, "{key}>{listed}")?,
                LabelOperator::LessThan => write!(formatter, "{key}<{listed}")?,
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Symbol(&'static str),
    End,
}

impl Token {
    fn literal(&self) -> &str {
        match self {
            Self::Word(word) => word,
            Self::Symbol(symbol) => symbol,
            Self::End => "",
        }
    }
}

const SYMBOLS: &[&str] = &["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

fn lex(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            tokens.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        } else {
            let end = rest.find(|c: char| c.is_whitespace() || "=!(),><".contains(c)).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).unwrap_or(&Token::End)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn requirements(&mut self) -> Result<Vec<LabelRequirement>, SelectorError> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::End if requirements.is_empty() => return Ok(requirements),
                Token::Word(_) | Token::Symbol("!") => requirements.push(self.requirement()?),
                other => {
                    let expected = if requirements.is_empty() {
                        "!, identifier, or 'end of string'"
                    } else {
                        "identifier after ','"
                    };
                    return Err(SelectorError(format!("found '{}', expected: {expected}", other.literal())));
                }
            }
            match self.next() {
                Token::End => return Ok(requirements),
                Token::Symbol(",") => {}
                other => {
                    return Err(SelectorError(format!(
                        "found '{}', expected: ',' or 'end of string'",
                        other.literal()
                    )));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<LabelRequirement, SelectorError> {
        let is_negated = *self.peek() == Token::Symbol("!");
        if is_negated {
            self.next();
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return Err(SelectorError(format!("found '{}', expected: identifier", other.literal()))),
        };
        check_key(&key)?;
        if is_negated {
            return Ok(LabelRequirement { key, operator: LabelOperator::DoesNotExist, values: Vec::new() });
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Ok(LabelRequirement { key, operator: LabelOperator::Exists, values: Vec::new() });
        }
        let operator = self.next();
        let (operator, values) = match &operator {
            Token::Word(word) if word == "in" => (LabelOperator::In, self.values()?),
            Token::Word(word) if word == "notin" => (LabelOperator::NotIn, self.values()?),
            Token::Symbol("=" | "==") => (LabelOperator::In, vec![self.value()]),
            Token::Symbol("!=") => (LabelOperator::NotIn, vec![self.value()]),
            Token::Symbol(">") => (LabelOperator::GreaterThan, vec![self.number(&key)?]),
            Token::Symbol("<") => (LabelOperator::LessThan, vec![self.number(&key)?]),
            other => {
                let message = format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.literal());
                return Err(SelectorError(message));
            }
        };
        values.iter().try_for_each(|value| check_value(&key, value))?;
        Ok(LabelRequirement { key, operator, values })
    }

    /// A single value may be empty: `key=` asks for the empty one.
    fn value(&mut self) -> String {
        match self.peek() {
            Token::Word(word) => {
                let word = word.clone();
                self.at += 1;
                word
            }
            _ => String::new(),
        }
    }

    fn number(&mut self, key: &str) -> Result<String, SelectorError> {
        let value = self.value();
        match value.parse::<i64>() {
            Ok(_) => Ok(value),
            Err(_) => Err(SelectorError(format!(
                "values[0][{key}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
            ))),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        match self.next() {
            Token::Symbol("(") => {}
            other => return Err(SelectorError(format!("found '{}' expected: '('", other.literal()))),
        }
        let mut values = vec![self.value()];
        loop {
            match self.next() {
                Token::Symbol(",") => values.push(self.value()),
                Token::Symbol(")") => {
                    values.sort();
                    values.dedup();
                    return Ok(values);
                }
                other => {
                    let message = format!("found '{}', expected: ',', ')' or identifier", other.literal());
                    return Err(SelectorError(message));
                }
            }
        }
    }
}

/// The part of a key behind its prefix, and a value, are up to 63 of these, letters or digits at both ends.
fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        && bytes.first().is_none_or(u8::is_ascii_alphanumeric)
        && bytes.last().is_none_or(u8::is_ascii_alphanumeric)
}

fn check_key(key: &str) -> Result<(), SelectorError> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let is_prefix = prefix.is_none_or(crate::validation::is_dns_subdomain);
    if is_prefix && !name.is_empty() && is_label_text(name) {
        return Ok(());
    }
    Err(SelectorError(format!(
        "key: Invalid value: {key:?}: a label key is a name of at most 63 letters, digits, '-', '_' or '.', \
         with an optional DNS subdomain and '/' before it"
    )))
}

fn check_value(key: &str, value: &str) -> Result<(), SelectorError> {
    if is_label_text(value) {
        return Ok(());
    }
    Err(SelectorError(format!(
        "values[0][{key}]: Invalid value: {value:?}: a label value has at most 63 letters, digits, '-', '_' or '.', \
         a letter or digit at both ends"
    )))
}

/// Conditions on fields; all must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

/// One condition on a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    path: String,
    operator: FieldOperator,
    value: String,
}

/// What is asked of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldOperator {
    /// It has the value.
    Equals,
    /// It has another value.
    NotEquals,
}

impl FieldRequirement {
    /// The field's path from the object's root, as written.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is asked.
    pub fn operator(&self) -> FieldOperator {
        self.operator
    }

    /// The value compared with.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl FieldSelector {
    /// Reads `path=value`, `path==value` and `path!=value`, joined by commas; `\` takes the meaning from `,`, `=` and `\`.
    ///
    /// # Errors
    /// Quotes the term that cannot be read.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        check_size(text)?;
        let terms = split_terms(text);
        if terms.len() > REQUIREMENTS {
            return Err(SelectorError(format!(
                "the selector has {} terms; at most {REQUIREMENTS} are read",
                terms.len()
            )));
        }
        let requirements = terms
            .into_iter()
            .filter(|term| !term.is_empty())
            .map(|term| {
                read_term(term)
                    .ok_or_else(|| SelectorError(format!("invalid selector: '{text}'; can't understand '{term}'")))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { requirements })
    }

    /// The conditions.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, FieldRequirement { path, operator, value }) in self.requirements.iter().enumerate() {
            let separator = if index > 0 { "," } else { "" };
            let sign = if *operator == FieldOperator::Equals { "=" } else { "!=" };
            let escaped = value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(formatter, "{separator}{path}{sign}{escaped}")?;
        }
        Ok(())
    }
}

/// Splits at commas that no backslash stands before.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut begin, mut is_escaped) = (Vec::new(), 0, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ',' => {
                terms.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[begin..]);
    terms
}

fn read_term(term: &str) -> Option<FieldRequirement> {
    for (at, _) in term.char_indices() {
        for (sign, operator) in
            [("!=", FieldOperator::NotEquals), ("==", FieldOperator::Equals), ("=", FieldOperator::Equals)]
        {
            if let Some(value) = term[at..].strip_prefix(sign) {
                return Some(FieldRequirement { path: term[..at].to_owned(), operator, value: unescape(value)? });
            }
        }
    }
    None
}

fn unescape(value: &str) -> Option<String> {
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => plain.push(characters.next().filter(|next| ",=\\".contains(*next))?),
            // A sign that is not escaped would leave open where the value begins.
            '=' => return None,
            other => plain.push(other),
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn label_error(text: &str) -> String {
        LabelSelector::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn errors_are_in_the_words_that_clients_know() {
        assert_eq!(label_error("===bad"), "found '==', expected: !, identifier, or 'end of string'");
        assert_eq!(label_error("a in b"), "found 'b' expected: '('");
        assert_eq!(label_error("a b"), "found 'b', expected: in, notin, =, ==, !=, gt, lt");
        assert_eq!(label_error("a,,b"), "found ',', expected: identifier after ','");
        assert_eq!(
            FieldSelector::parse("bogus").unwrap_err().to_string(),
            "invalid selector: 'bogus'; can't understand 'bogus'"
        );
    }

    #[test]
    fn all_operators_are_read_and_mean_what_they_say() {
        let selector = LabelSelector::parse("a=1, b != 2,c in (x, y),d notin (z),e,!f,g>3,h<9").unwrap();
        let labels = [("a", "1"), ("c", "y"), ("e", ""), ("g", "4"), ("h", "8")];
        let lookup =
            |labels: &'static [(&str, &str)], key: &str| labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
        let labels: &'static [(&str, &str)] = Box::leak(Box::new(labels));
        assert!(selector.matches(|key| lookup(labels, key)));
        assert!(!selector.matches(|key| if key == "f" { Some("") } else { lookup(labels, key) }));
    }

    #[test]
    fn absurd_selectors_are_refused() {
        assert!(label_error(&"a,".repeat(40_000)).contains("bytes"));
        assert!(label_error(&vec!["a"; 1500].join(",")).contains("requirements"));
        assert!(label_error("a=b c").contains("expected"));
        assert!(label_error("UPPER.example.com/é=x").contains("label key"));
    }

    #[test]
    fn field_values_may_hold_signs_if_they_are_escaped() {
        let selector = FieldSelector::parse(r"a.b=c\,d\=e,f!=g").unwrap();
        assert_eq!(selector.requirements()[0].value(), "c,d=e");
        assert_eq!(selector.requirements()[1].operator(), FieldOperator::NotEquals);
        assert!(FieldSelector::parse("a=b=c").is_err());
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(
            terms in proptest::collection::vec(("[a-z]{1,5}", 0..6_usize, "[a-z0-9]{1,4}"), 0..5),
        ) {
            let text: Vec<String> = terms.into_iter().map(|(key, operator, value)| match operator {
                0 => format!("{key} in ({value},x)"),
                1 => format!("{key} notin ({value})"),
                2 => key,
                3 => format!("!{key}"),
                4 => format!("{key}>7"),
                _ => format!("{key}!={value}"),
            }).collect();
            let selector = LabelSelector::parse(&text.join(",")).unwrap();
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
        }

        #[test]
        fn field_selectors_too(terms in proptest::collection::vec(("[a-z.]{1,6}", any::<bool>(), "[a-z,=\\\\]{0,5}"), 1..4)) {
            let requirements = terms.into_iter().map(|(path, equal, value)| FieldRequirement {
                path, value, operator: if equal { FieldOperator::Equals } else { FieldOperator::NotEquals },
            }).collect();
            let selector = FieldSelector { requirements };
            prop_assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,40}") {
            let _ = LabelSelector::parse(&text);
            let _ = FieldSelector::parse(&text);
        }
    }
}
