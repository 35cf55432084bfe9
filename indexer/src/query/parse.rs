//! From a text to an [`Expression`], or to an error that points at the character and says what to write.

use std::fmt;

use super::value::{Literal, Moment};
use super::{
    Bound, ElementClause, Expression, Field, FieldClause, NAMED, Pattern, PatternPart, Span, Test, TextClause,
};

/// Deeper nesting is no question that a person asks.
const DEEPEST: usize = 32;
/// Clauses in one query.
const MOST_CLAUSES: usize = 200;
/// Bytes of a query.
const LONGEST: usize = 8 * 1024;

/// What is wrong with a query, where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct QueryError {
    /// Which character, counted from 1.
    pub character: usize,
    /// What is wrong.
    pub problem: String,
    /// What to write instead; empty if there is nothing to guess.
    pub suggestion: String,
}

impl fmt::Display for QueryError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "character {}: {}", self.character, self.problem)?;
        if self.suggestion.is_empty() { Ok(()) } else { write!(formatter, "; {}", self.suggestion) }
    }
}

/// Reads a query.
///
/// # Errors
/// If it is not in the grammar, or larger than a person would write.
pub fn parse(text: &str) -> Result<Expression, QueryError> {
    let mut parser = Parser::new(text);
    if text.len() > LONGEST {
        return Err(parser.error_at(0, format!("the query is longer than {LONGEST} bytes"), ""));
    }
    parser.skip_space();
    if parser.is_at_end() {
        return Ok(Expression::Everything);
    }
    let expression = parser.alternatives(None)?;
    match parser.peek() {
        None => Ok(expression),
        Some(')') => Err(parser.error("there is no ( for this )", "leave it out, or write \\) for the character")),
        Some(other) => Err(parser.error(format!("{other:?} is not expected here"), "")),
    }
}

/// Reads the name of a field alone, as in `orderBy`.
///
/// # Errors
/// If it is none.
pub fn parse_field(text: &str) -> Result<Field, QueryError> {
    let mut parser = Parser::new(text);
    let letters = parser.letters(|_| false)?;
    if letters.is_empty() || !parser.is_at_end() {
        return Err(
            parser.error("the name of one field is expected", "write one such as name, created or spec.replicas")
        );
    }
    parser.field(&letters, 0)
}

struct Parser<'a> {
    text: &'a str,
    characters: Vec<(usize, char)>,
    at: usize,
    clauses: usize,
    depth: usize,
    /// Whether it is inside of `{ }`, where fields are an element's.
    in_element: bool,
}

/// A character, and whether quotes or a backslash took its meaning.
type Letter = (char, bool);

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, characters: text.char_indices().collect(), at: 0, clauses: 0, depth: 0, in_element: false }
    }

    /// Whether a character ends what stands in brackets.
    fn closes(&self, character: char) -> bool {
        character == ')' || (character == '}' && self.in_element)
    }

    fn peek(&self) -> Option<char> {
        self.characters.get(self.at).map(|(_, character)| *character)
    }

    fn is_at_end(&self) -> bool {
        self.at >= self.characters.len()
    }

    fn offset(&self) -> usize {
        self.characters.get(self.at).map_or(self.text.len(), |(offset, _)| *offset)
    }

    fn error(&self, problem: impl Into<String>, suggestion: impl Into<String>) -> QueryError {
        self.error_at(self.at, problem, suggestion)
    }

    fn error_at(&self, at: usize, problem: impl Into<String>, suggestion: impl Into<String>) -> QueryError {
        QueryError { character: at + 1, problem: problem.into(), suggestion: suggestion.into() }
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn takes(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    /// Takes a word of the grammar, if it stands alone here.
    fn takes_word(&mut self, word: &str) -> bool {
        let end = self.at + word.len();
        let is_there =
            self.characters.get(self.at..end).is_some_and(|found| found.iter().map(|(_, c)| *c).eq(word.chars()));
        let is_alone =
            self.characters.get(end).is_none_or(|(_, next)| next.is_whitespace() || *next == '(' || self.closes(*next));
        if is_there && is_alone {
            self.at = end;
            self.skip_space();
        }
        is_there && is_alone
    }

    fn alternatives(&mut self, field: Option<&Field>) -> Result<Expression, QueryError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.error(format!("the query is nested more than {DEEPEST} deep"), ""));
        }
        let mut parts = vec![self.conjunction(field)?];
        while self.takes_word("OR") {
            parts.push(self.conjunction(field)?);
        }
        self.depth -= 1;
        Ok(one_or(parts, Expression::Any))
    }

    fn conjunction(&mut self, field: Option<&Field>) -> Result<Expression, QueryError> {
        let mut parts = vec![self.negation(field)?];
        loop {
            self.skip_space();
            let says_and = self.takes_word("AND");
            let ends = self.peek().is_none_or(|next| self.closes(next)) || self.is_before("OR");
            if ends && !says_and {
                return Ok(one_or(parts, Expression::All));
            }
            parts.push(self.negation(field)?);
        }
    }

    fn is_before(&mut self, word: &str) -> bool {
        let at = self.at;
        let found = self.takes_word(word);
        self.at = at;
        found
    }

    fn negation(&mut self, field: Option<&Field>) -> Result<Expression, QueryError> {
        self.skip_space();
        let minus =
            self.peek() == Some('-') && self.characters.get(self.at + 1).is_some_and(|(_, next)| !next.is_whitespace());
        if self.takes_word("NOT") || (minus && self.takes('-')) {
            self.depth += 1;
            if self.depth > DEEPEST {
                return Err(self.error(format!("the query is nested more than {DEEPEST} deep"), ""));
            }
            let part = self.negation(field)?;
            self.depth -= 1;
            return Ok(Expression::Not(Box::new(part)));
        }
        self.primary(field)
    }

    fn primary(&mut self, field: Option<&Field>) -> Result<Expression, QueryError> {
        let begun = self.at;
        for word in ["AND", "OR"] {
            if self.is_before(word) {
                return Err(
                    self.error(format!("{word} has nothing before it"), format!("write \"{word}\" for the word"))
                );
            }
        }
        match self.peek() {
            None => Err(self.error("something is missing at the end", "write a word or field:value")),
            Some(closing) if self.closes(closing) => {
                Err(self.error(format!("there is nothing before this {closing}"), "write a word or field:value"))
            }
            Some('(') => {
                self.at += 1;
                let inner = self.alternatives(field)?;
                self.skip_space();
                if self.takes(')') {
                    Ok(inner)
                } else {
                    Err(self.error_at(begun, "this ( is not closed", "write a ) for it"))
                }
            }
            Some(_) => {
                self.clauses += 1;
                if self.clauses > MOST_CLAUSES {
                    return Err(self.error(format!("there are more than {MOST_CLAUSES} conditions"), ""));
                }
                match field {
                    Some(field) => self.value(field, begun),
                    None => self.term(),
                }
            }
        }
    }

    /// A word, a phrase, or a field with its value.
    fn term(&mut self) -> Result<Expression, QueryError> {
        let begun = self.at;
        let start = self.offset();
        let letters = self.letters(|character| character == ':' || character == '(' || character == ')')?;
        if !self.takes(':') {
            if self.in_element {
                let suggestion = "write field:value; for the ends of a range write {1 TO 5}";
                return Err(self.error_at(begun, "in { } every condition names a field", suggestion));
            }
            let span = Span { start, end: self.offset() };
            return self.full_text(&letters, span, begun);
        }
        let field = self.field(&letters, begun)?;
        if self.peek().is_none_or(|next| self.closes(next) || next.is_whitespace()) {
            let suggestion = format!("write {field}:* for all that have it");
            return Err(self.error(format!("a value is missing behind {field}:"), suggestion));
        }
        if self.takes('(') {
            let inner = self.alternatives(Some(&field))?;
            self.skip_space();
            return if self.takes(')') {
                Ok(inner)
            } else {
                Err(self.error_at(begun, "this ( is not closed", "write a ) for it"))
            };
        }
        if self.peek() == Some('{') && !self.is_before_range() {
            return self.element(field, start, begun);
        }
        self.value(&field, begun)
    }

    /// Whether what begins here has two ends.
    fn is_before_range(&mut self) -> bool {
        let at = self.at;
        self.at += 1;
        self.skip_space();
        let begun = self.at;
        let end = self.letters(|character| character == ']' || character == '}').unwrap_or_default();
        let end_at = self.at;
        self.skip_space();
        // `{a:[1 TO 5]}` is no range.
        // An empty text can be meant, but only if it is written as "".
        let is_end = end_at > begun && !end.iter().any(|letter| matches!(letter, ('(' | '[' | '{', false)));
        let is_range = is_end && self.takes_word("TO");
        self.at = at;
        is_range
    }

    /// `{ … }`: conditions that one element has to meet.
    fn element(&mut self, of: Field, start: usize, begun: usize) -> Result<Expression, QueryError> {
        let opened = self.at;
        if !matches!(of, Field::Path(_) | Field::Container) {
            let suggestion = format!("write {of}:value; a path such as spec.containers has some");
            return Err(self.error_at(begun, format!("{of} has no elements to ask"), suggestion));
        }
        self.at += 1;
        let outside = std::mem::replace(&mut self.in_element, true);
        let inner = self.alternatives(None)?;
        self.skip_space();
        if !self.takes('}') {
            return Err(self.error_at(opened, "this { is not closed", "write a } for it"));
        }
        self.in_element = outside;
        let span = Span { start, end: self.offset() };
        Ok(Expression::Element(ElementClause { of, inner: Box::new(inner), span }))
    }

    /// Characters up to a space or to one that `ends`, outside of quotes and escapes.
    fn letters(&mut self, ends: impl Fn(char) -> bool) -> Result<Vec<Letter>, QueryError> {
        let mut letters = Vec::new();
        while let Some(character) = self.peek() {
            match character {
                '"' => self.quoted(&mut letters)?,
                '\\' => {
                    self.at += 1;
                    let Some(escaped) = self.peek() else {
                        return Err(self.error_at(
                            self.at - 1,
                            "nothing follows the backslash",
                            "write \\\\ for a backslash",
                        ));
                    };
                    letters.push((escaped, true));
                    self.at += 1;
                }
                other if other.is_whitespace() || ends(other) || (other == '}' && self.in_element) => break,
                other => {
                    letters.push((other, false));
                    self.at += 1;
                }
            }
        }
        Ok(letters)
    }

    fn quoted(&mut self, letters: &mut Vec<Letter>) -> Result<(), QueryError> {
        let begun = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                None => {
                    return Err(self.error_at(
                        begun,
                        "this quote is not closed",
                        "write a \" for it, or \\\" for the character",
                    ));
                }
                Some('"') => break,
                Some('\\') if self.characters.get(self.at + 1).is_some() => {
                    self.at += 1;
                    letters.extend(self.peek().map(|character| (character, true)));
                }
                Some(character) => letters.push((character, true)),
            }
            self.at += 1;
        }
        self.at += 1;
        Ok(())
    }

    fn full_text(&self, letters: &[Letter], span: Span, begun: usize) -> Result<Expression, QueryError> {
        let words = words(letters);
        if words.is_empty() {
            let text: String = letters.iter().map(|(character, _)| character).collect();
            return Err(self.error_at(begun, format!("{text:?} holds no letter or digit to search for"), ""));
        }
        if let [word] = words.as_slice()
            && matches!(word.parts.as_slice(), [PatternPart::Many])
        {
            return Ok(Expression::Everything);
        }
        Ok(Expression::Text(TextClause { words, span }))
    }

    fn field(&self, letters: &[Letter], begun: usize) -> Result<Field, QueryError> {
        if self.in_element {
            return self.path(letters, begun);
        }
        let text: String = letters.iter().map(|(character, _)| character).collect();
        if let Some((_, field)) = NAMED.iter().find(|(name, _)| *name == text) {
            return Ok(field.clone());
        }
        for (prefix, make) in [("label.", Field::Label as fn(String) -> Field), ("annotation.", Field::Annotation)] {
            match text.strip_prefix(prefix) {
                Some("") => {
                    return Err(self.error_at(
                        begun,
                        format!("{prefix} needs a key"),
                        format!("write {prefix}app:value"),
                    ));
                }
                Some(key) => return Ok(make(key.to_owned())),
                None => {}
            }
        }
        let path = self.path(letters, begun)?;
        let is_rooted = letters.first() == Some(&('.', false));
        match mistaken(&path_steps(letters), is_rooted) {
            Some(meant) => {
                let suggestion = format!("did you mean {meant}? Write .{text} for a path that begins so");
                Err(self.error_at(begun, format!("there is no field {text}"), suggestion))
            }
            None => Ok(path),
        }
    }

    fn path(&self, letters: &[Letter], begun: usize) -> Result<Field, QueryError> {
        let steps = path_steps(letters);
        if steps.is_empty() || steps.iter().any(String::is_empty) {
            let problem = format!("{:?} is no field", plain(letters));
            return Err(self.error_at(begun, problem, "write a path such as spec.replicas"));
        }
        Ok(Field::Path(steps))
    }

    fn value(&mut self, field: &Field, begun: usize) -> Result<Expression, QueryError> {
        let start = self.characters.get(begun).map_or(0, |(offset, _)| *offset);
        let test = match self.peek() {
            Some('[' | '{') => self.range()?,
            Some('>' | '<') => self.comparison()?,
            _ => {
                let is_quoted = self.peek() == Some('"');
                let letters = self.letters(|character| character == ')')?;
                exactly(&letters, is_quoted)
            }
        };
        let is_time = matches!(field, Field::Created | Field::Changed);
        let test = if is_time { self.about_time(test, begun)? } else { test };
        let span = Span { start, end: self.offset() };
        Ok(Expression::Field(FieldClause { field: field.clone(), test, span }))
    }

    fn comparison(&mut self) -> Result<Test, QueryError> {
        let is_lower = self.takes('>') || !self.takes('<');
        let is_inclusive = self.takes('=');
        let at = self.at;
        let text = plain(&self.letters(|character| character == ')')?);
        if text.is_empty() {
            return Err(self.error_at(
                at,
                "a value is missing behind the comparison",
                "write it at once behind, as in spec.replicas:>3",
            ));
        }
        let bound = Some(Bound { value: Literal::read(&text), is_inclusive });
        Ok(if is_lower {
            Test::Within { lower: bound, upper: None }
        } else {
            Test::Within { lower: None, upper: bound }
        })
    }

    fn range(&mut self) -> Result<Test, QueryError> {
        let begun = self.at;
        let includes_lower = !self.takes('{') && self.takes('[');
        let lower = self.range_end(includes_lower)?;
        if !self.takes_word("TO") {
            return Err(
                self.error("TO is missing between the ends of the range", "write [1 TO 5], or [1 TO *] for no end")
            );
        }
        let upper = self.range_end(true)?;
        let includes_upper = match self.peek() {
            Some(']') => true,
            Some('}') => false,
            _ => {
                return Err(self.error_at(
                    begun,
                    "this range is not closed",
                    "write ] for it, or } to leave its end out",
                ));
            }
        };
        self.at += 1;
        let upper = upper.map(|bound| Bound { is_inclusive: includes_upper, ..bound });
        Ok(Test::Within { lower, upper })
    }

    fn range_end(&mut self, is_inclusive: bool) -> Result<Option<Bound>, QueryError> {
        self.skip_space();
        let at = self.at;
        let letters = self.letters(|character| character == ']' || character == '}')?;
        self.skip_space();
        if letters == [('*', false)] {
            return Ok(None);
        }
        // An empty text can be meant, but only if it is written as "".
        if letters.is_empty() && self.at == at {
            return Err(self.error_at(at, "an end of the range is missing", "write [1 TO 5], or [1 TO *] for no end"));
        }
        Ok(Some(Bound { value: Literal::read(&plain(&letters)), is_inclusive }))
    }

    /// `created` is a time: a day named alone is all of its moments, as an end of a range it is its first one; what is no
    /// time can't be meant.
    fn about_time(&self, test: Test, begun: usize) -> Result<Test, QueryError> {
        let refuse = |text: &str| {
            let suggestion = "write a time, as in created:>now-1d, created:2026-01-02 or created:<2026-01-02T03:04:05Z";
            Err(self.error_at(begun, format!("{text:?} is no time"), suggestion))
        };
        match test {
            Test::Is(text) => match Literal::read(&text) {
                Literal::Moment(Moment::At(start), _) if text.len() == "2026-01-02".len() => {
                    let end = start.checked_add(jiff::SignedDuration::from_hours(24)).unwrap_or(start);
                    let bound = |at: jiff::Timestamp, is_inclusive| {
                        Some(Bound { value: Literal::Moment(Moment::At(at), at.to_string()), is_inclusive })
                    };
                    Ok(Test::Within { lower: bound(start, true), upper: bound(end, false) })
                }
                moment @ Literal::Moment(..) => {
                    let bound = Some(Bound { value: moment, is_inclusive: true });
                    Ok(Test::Within { lower: bound.clone(), upper: bound })
                }
                _ => refuse(&text),
            },
            Test::Like(pattern) => refuse(&pattern.to_string()),
            Test::Within { ref lower, ref upper } => {
                let odd =
                    [lower, upper].into_iter().flatten().find(|bound| !matches!(bound.value, Literal::Moment(..)));
                match odd {
                    Some(bound) => refuse(bound.value.text()),
                    None => Ok(test),
                }
            }
            Test::Exists => Ok(test),
        }
    }
}

fn one_or(mut parts: Vec<Expression>, many: impl FnOnce(Vec<Expression>) -> Expression) -> Expression {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            many(parts)
        }
    }
}

fn plain(letters: &[Letter]) -> String {
    letters.iter().map(|(character, _)| character).collect()
}

fn is_wildcard(letter: &Letter) -> bool {
    matches!(letter, ('*' | '?', false))
}

fn exactly(letters: &[Letter], is_quoted: bool) -> Test {
    if !is_quoted && letters == [('*', false)] {
        return Test::Exists;
    }
    if letters.iter().any(is_wildcard) { Test::Like(pattern(letters)) } else { Test::Is(plain(letters)) }
}

/// A pattern in its one form: no two texts and no two `*` side by side.
fn pattern(letters: &[Letter]) -> Pattern {
    let mut parts: Vec<PatternPart> = Vec::new();
    for letter in letters {
        match (letter, parts.last_mut()) {
            (('*', false), Some(PatternPart::Many)) => {}
            (('*', false), _) => parts.push(PatternPart::Many),
            (('?', false), _) => parts.push(PatternPart::One),
            ((character, _), Some(PatternPart::Text(text))) => text.push(*character),
            ((character, _), _) => parts.push(PatternPart::Text(character.to_string())),
        }
    }
    Pattern { parts }
}

/// The words of a text: letters and digits, case-folded; wildcards belong to words, all else separates them.
fn words(letters: &[Letter]) -> Vec<Pattern> {
    let belongs = |letter: &Letter| letter.0.is_alphanumeric() || is_wildcard(letter);
    letters
        .split(|letter| !belongs(letter))
        .filter(|word| !word.is_empty())
        .map(|word| {
            let folded =
                word.iter().flat_map(|(character, escaped)| character.to_lowercase().map(|folded| (folded, *escaped)));
            // Case-folding may bring marks that are no letters.
            pattern(&folded.filter(belongs).collect::<Vec<_>>())
        })
        .collect()
}

/// A path's steps: dots separate them, escaped dots belong to them; one dot may stand in front.
fn path_steps(letters: &[Letter]) -> Vec<String> {
    let letters = letters.strip_prefix(&[('.', false)]).unwrap_or(letters);
    letters.split(|letter| *letter == ('.', false)).map(plain).collect()
}

/// What was meant, if a field's name looks like a slip.
fn mistaken(steps: &[String], is_rooted: bool) -> Option<String> {
    if is_rooted {
        return None;
    }
    let (first, rest) = steps.split_first()?;
    if let Some(singular) = ["labels", "annotations"].iter().find(|plural| first == *plural) {
        let singular = singular.trim_end_matches('s');
        return Some(if rest.is_empty() {
            format!("{singular}.KEY")
        } else {
            format!("{singular}.{}", rest.join("."))
        });
    }
    if !rest.is_empty() {
        return None;
    }
    let names = NAMED.iter().map(|(name, _)| *name);
    let close = names.map(|name| (strsim::damerau_levenshtein(name, first), name)).min()?;
    (close.0 <= 2 && first.len() > 3 && !is_root(first)).then(|| close.1.to_owned())
}

/// Fields at the root of objects that a name of the grammar must not be guessed for.
fn is_root(step: &str) -> bool {
    ["kind", "data", "spec", "type", "rules", "status", "reason", "count", "ports", "source", "message"].contains(&step)
}
