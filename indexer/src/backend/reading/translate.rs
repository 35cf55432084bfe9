//! What a query asks, in OpenSearch's words.
//!
//! Each part becomes two conditions on documents: one that only objects meet which pass, and one that all of them meet. In
//! between, objects are looked at. So documents may leave out what they like, as long as they say so (`cut`, `dotted`).

use serde_json::{Map, Value, json};

use super::bounds::{Bounds, Condition};
use crate::backend::document::searchable::{Cut, number_term, path_term, time_term};
use crate::backend::document::{LONGEST_VALUE, beginning, is_usable};
use crate::backend::layout::FORM;
use crate::query::evaluate::Evaluator;
use crate::query::value::{Literal, Quantity};
use crate::query::{Bound, ElementClause, Expression, Field, FieldClause, Pattern, Test, TextClause};

/// More ways than this are asked for together: OpenSearch takes 1,024 clauses.
const MOST_WAYS: usize = 50;
/// Fields with words, and how much they weigh.
pub(super) const WORDS: [(&str, u32); 3] = [("nameText", 8), ("labelText", 4), ("text", 1)];

/// Documents of which something is left out.
pub(super) fn cut(cut: &Cut) -> Condition {
    Condition::term("cut", &cut.to_string())
}

/// What documents tell of a question.
pub(super) fn bounds(evaluator: &Evaluator, knows_paths: bool) -> Bounds {
    let bounds = Translator { evaluator, knows_paths }.of(evaluator.expression());
    // Documents of an earlier form lack what is asked here.
    bounds.except(&Condition::term("form", &FORM.to_string()).not())
}

struct Translator<'a> {
    evaluator: &'a Evaluator,
    /// Whether flat objects can be asked whether a path is there.
    knows_paths: bool,
}

/// The keyword field that a field of the grammar stands in, and what is told of those that it lacks.
pub(super) fn keyword(field: &Field) -> Option<(&'static str, Option<Cut>)> {
    Some(match field {
        Field::Cluster => ("cluster", None),
        Field::Group => ("group", None),
        Field::Version => ("version", None),
        Field::Kind => ("kind", None),
        Field::Resource => ("resource", None),
        Field::Namespace => ("namespace", None),
        Field::Name => ("name", None),
        Field::Uid => ("uid", Some(Cut::Uid)),
        Field::Image => ("image", Some(Cut::Image)),
        Field::Container => ("container", Some(Cut::Container)),
        _ => return None,
    })
}

impl Translator<'_> {
    fn of(&self, expression: &Expression) -> Bounds {
        match expression {
            Expression::Everything => Bounds::exactly(Condition::All),
            Expression::Not(part) => self.of(part).not(),
            Expression::All(parts) => Bounds::all(parts.iter().map(|part| self.of(part))),
            Expression::Any(parts) if parts.len() > MOST_WAYS => self.many_ways(parts),
            Expression::Any(parts) => Bounds::any(parts.iter().map(|part| self.of(part))),
            Expression::Text(clause) => words(clause),
            Expression::Field(clause) => self.field(clause),
            Expression::Element(clause) => self.element(clause),
        }
    }

    fn field(&self, FieldClause { field, test, .. }: &FieldClause) -> Bounds {
        if let Some((name, lacks)) = keyword(field) {
            return but_for(text_field(name, "", test), lacks);
        }
        match field {
            Field::Owner | Field::OwnerChain => but_for(text_field("ownerKeys", "", test), Some(Cut::Owner)),
            Field::Created => self.time("created", test),
            Field::Changed => self.time("changed", test),
            Field::Label(key) => label(key, test),
            Field::Annotation(_) if !self.knows_paths => Bounds::unknown(),
            Field::Annotation(key) => annotation(key, test),
            Field::Path(steps) => self.path(steps, test),
            _ => Bounds::unknown(),
        }
    }

    /// Documents have times in milliseconds.
    fn time(&self, name: &str, test: &Test) -> Bounds {
        let known = match test {
            Test::Exists | Test::Within { lower: None, upper: None } => {
                return Bounds::exactly(Condition::exists(name));
            }
            Test::Is(_) | Test::Like(_) => return Bounds::exactly(Condition::Nothing),
            Test::Within { lower, upper } => {
                let mut limits = Map::from_iter([("format".to_owned(), json!("epoch_millis"))]);
                for (bound, is_lower) in [(lower, true), (upper, false)] {
                    let Some(bound) = bound else { continue };
                    let Literal::Moment(moment, _) = &bound.value else {
                        return Bounds::exactly(Condition::Nothing);
                    };
                    let nanoseconds = moment.seen_from(self.evaluator.now()).as_nanosecond();
                    let (limit, milliseconds) = time_limit(nanoseconds, is_lower, bound.is_inclusive);
                    limits.insert(limit.to_owned(), json!(milliseconds));
                }
                Condition::range(name, Value::Object(limits))
            }
        };
        let unclear = cut(&Cut::Time).and(Condition::exists(name));
        Bounds::exactly(known).except(&unclear)
    }

    fn path(&self, steps: &[String], test: &Test) -> Bounds {
        let is_in_body = steps.first().is_some_and(|first| !matches!(&**first, "apiVersion" | "kind" | "metadata"));
        if !is_in_body || !self.knows_paths || !steps.iter().all(|step| is_usable(step) && is_literal(step)) {
            return Bounds::unknown();
        }
        let (flat, term) = (format!("body.{}", steps.join(".")), path_term(steps.iter().map(String::as_str)));
        let cut = cut(&Cut::Body).or(cut(&Cut::Value(steps.join("."))));
        let scalar = |condition: Condition| {
            let possible = condition.clone().or(cut.clone());
            let is_clear = !steps.iter().any(|step| step.contains(['.', '=']));
            let unclear = Condition::terms("dotted", beginnings(&steps.join("."))).or(cut.clone());
            let sure = if is_clear { condition.and(unclear.not()) } else { Condition::Nothing };
            Bounds { sure, possible }
        };
        let anything = || scalar(Condition::exists(&flat));
        match test {
            Test::Exists => Bounds::any([anything(), Bounds::exactly(Condition::term("objects", &term))]),
            Test::Is(text) => {
                let same =
                    Quantity::parse(text).map(|quantity| Condition::term("numbers", &number_term(&term, quantity)));
                let same = Bounds::at_most(same.unwrap_or(Condition::Nothing));
                let is_whole = text.len() <= LONGEST_VALUE;
                let written = if is_whole { Condition::term(&flat, text) } else { Condition::Nothing };
                Bounds::any([scalar(written), same])
            }
            Test::Like(pattern) => scalar(wildcard(&flat, "", pattern)),
            Test::Within { lower: None, upper: None } => anything(),
            Test::Within { lower, upper } => match self.numbers(&term, lower.as_ref(), upper.as_ref()) {
                Some(range) => Bounds { possible: range.clone().or(cut.clone()), sure: range },
                None => Bounds::at_most(anything().possible),
            },
        }
    }

    /// A range of numbers or of times at a path; none if it is of neither.
    fn numbers(&self, path: &str, lower: Option<&Bound>, upper: Option<&Bound>) -> Option<Condition> {
        let mut limits = Map::new();
        let mut kinds = Vec::new();
        for (bound, is_lower) in [(lower, true), (upper, false)] {
            let Some(bound) = bound else { continue };
            let (kind, term) = match &bound.value {
                Literal::Quantity(quantity, _) => ('q', number_term(path, *quantity)),
                Literal::Moment(moment, _) => ('t', time_term(path, moment.seen_from(self.evaluator.now()))),
                Literal::Text(_) => return None,
            };
            kinds.push(kind);
            limits.insert(limit(is_lower, bound.is_inclusive).to_owned(), json!(term));
        }
        let kind = *kinds.first().filter(|first| kinds.iter().all(|kind| kind == *first))?;
        // Terms of a path and a kind stand between these, and no others do.
        if lower.is_none() {
            limits.insert("gte".to_owned(), json!(format!("{path}={kind}")));
        }
        if upper.is_none() {
            limits.insert("lt".to_owned(), json!(format!("{path}={kind}g")));
        }
        Some(Condition::range("numbers", Value::Object(limits)))
    }

    /// More ways than OpenSearch takes one by one, as what is owned by many: those together that ask for an owner.
    fn many_ways(&self, parts: &[Expression]) -> Bounds {
        let owners: Vec<Option<&str>> = parts.iter().map(needed_owner).collect();
        let others: Vec<&Expression> =
            parts.iter().zip(&owners).filter(|(_, owner)| owner.is_none()).map(|(part, _)| part).collect();
        if others.len() > MOST_WAYS {
            return Bounds::unknown();
        }
        let owned = Condition::terms("ownerKeys", owners.into_iter().flatten()).or(cut(&Cut::Owner));
        Bounds::any(std::iter::once(Bounds::at_most(owned)).chain(others.into_iter().map(|part| self.of(part))))
    }

    /// Documents don't know which values stand in one element, but what the element needs must be there.
    fn element(&self, clause: &ElementClause) -> Bounds {
        let possible = match &clause.of {
            Field::Path(steps) => {
                let there = self.path(steps, &Test::Exists).possible;
                there.and(self.needed(&clause.inner, Some(steps)))
            }
            _ => self.needed(&clause.inner, None),
        };
        Bounds::at_most(possible)
    }

    /// What is needed for an element to pass, wherever its values stand; without a path, of a container.
    fn needed(&self, expression: &Expression, path: Option<&[String]>) -> Condition {
        let below = |field: &Field| match (field, path) {
            (Field::Path(steps), Some(path)) => Some([path, steps].concat()),
            _ => None,
        };
        match expression {
            Expression::Everything | Expression::Not(_) | Expression::Text(_) => Condition::All,
            Expression::All(parts) => Condition::all(parts.iter().map(|part| self.needed(part, path))),
            Expression::Any(parts) if parts.len() > MOST_WAYS => Condition::All,
            Expression::Any(parts) => Condition::any(parts.iter().map(|part| self.needed(part, path))),
            Expression::Field(clause) => match (below(&clause.field), &clause.field) {
                (Some(steps), _) => self.path(&steps, &clause.test).possible,
                (None, Field::Path(steps)) if path.is_none() => self.of_container(steps, &clause.test),
                _ => Condition::All,
            },
            Expression::Element(clause) => match below(&clause.of) {
                Some(steps) => self.needed(&clause.inner, Some(&steps)),
                None => Condition::All,
            },
        }
    }

    /// Names and images of containers are known wherever their template stands.
    fn of_container(&self, steps: &[String], test: &Test) -> Condition {
        let field = match steps {
            [step] if step == "image" => Field::Image,
            [step] if step == "name" => Field::Container,
            _ => return Condition::All,
        };
        // A path takes other spellings of a quantity too, and a number is no image.
        match test {
            Test::Is(text) if Quantity::parse(text).is_none() && !matches!(&**text, "true" | "false") => {
                self.field(&FieldClause { field, test: test.clone(), span: crate::query::Span::default() }).possible
            }
            _ => Condition::All,
        }
    }
}

/// Known for sure but for documents that lack something.
fn but_for(bounds: Bounds, lacks: Option<Cut>) -> Bounds {
    match lacks {
        Some(lacks) => bounds.except(&cut(&lacks)),
        None => bounds,
    }
}

fn limit(is_lower: bool, is_inclusive: bool) -> &'static str {
    match (is_lower, is_inclusive) {
        (true, true) => "gte",
        (true, false) => "gt",
        (false, true) => "lte",
        (false, false) => "lt",
    }
}

/// The limit for whole milliseconds that a moment sets.
pub(super) fn time_limit(nanoseconds: i128, is_lower: bool, is_inclusive: bool) -> (&'static str, i64) {
    let milliseconds = i64::try_from(nanoseconds.div_euclid(1_000_000)).unwrap_or_default();
    let is_whole = nanoseconds.rem_euclid(1_000_000) == 0;
    // A moment within a millisecond lies behind its beginning.
    (limit(is_lower, if is_whole { is_inclusive } else { !is_lower }), milliseconds)
}

/// A field of texts that all begin with `prefix`.
fn text_field(name: &str, prefix: &str, test: &Test) -> Bounds {
    let anything = || match prefix {
        "" => Condition::exists(name),
        prefix => Condition::Query(json!({ "prefix": { name: { "value": prefix } } })),
    };
    match test {
        Test::Exists | Test::Within { lower: None, upper: None } => Bounds::exactly(anything()),
        Test::Is(text) => Bounds::exactly(Condition::term(name, &format!("{prefix}{text}"))),
        Test::Like(pattern) => Bounds::exactly(wildcard(name, prefix, pattern)),
        Test::Within { lower, upper } => match text_range(prefix, lower.as_ref(), upper.as_ref()) {
            Some(limits) => Bounds::exactly(Condition::range(name, limits)),
            // Which numbers texts are, only they know.
            None => Bounds::at_most(anything()),
        },
    }
}

/// The limits of a range of texts; none if it is one of something else.
fn text_range(prefix: &str, lower: Option<&Bound>, upper: Option<&Bound>) -> Option<Value> {
    let mut limits = Map::new();
    for (bound, is_lower) in [(lower, true), (upper, false)] {
        let Some(bound) = bound else { continue };
        let Literal::Text(text) = &bound.value else { return None };
        limits.insert(limit(is_lower, bound.is_inclusive).to_owned(), json!(format!("{prefix}{text}")));
    }
    if let Some(shorter) = prefix.strip_suffix('=') {
        if lower.is_none() {
            limits.insert("gte".to_owned(), json!(prefix));
        }
        if upper.is_none() {
            // The character behind `=`.
            limits.insert("lt".to_owned(), json!(format!("{shorter}>")));
        }
    }
    Some(Value::Object(limits))
}

fn wildcard(name: &str, prefix: &str, pattern: &Pattern) -> Condition {
    let value = format!("{}{}", Pattern::plain(prefix).to_lucene(), pattern.to_lucene());
    Condition::Query(json!({ "wildcard": { name: { "value": value } } }))
}

/// Labels stand as `key=value`.
fn label(key: &str, test: &Test) -> Bounds {
    if key.contains('=') {
        return Bounds::at_most(cut(&Cut::Label));
    }
    but_for(text_field("label", &format!("{key}="), test), Some(Cut::Label))
}

fn annotation(key: &str, test: &Test) -> Bounds {
    if key.contains('=') || !is_usable(key) {
        return Bounds::at_most(cut(&Cut::Annotations));
    }
    if !is_literal(key) {
        return Bounds::unknown();
    }
    let flat = format!("annotations.{key}");
    let known = match test {
        Test::Exists | Test::Within { lower: None, upper: None } => Bounds::exactly(Condition::exists(&flat)),
        Test::Is(text) if text.len() > LONGEST_VALUE => Bounds::exactly(Condition::Nothing),
        Test::Is(text) => Bounds::exactly(Condition::term(&flat, beginning(text, LONGEST_VALUE))),
        Test::Like(pattern) => Bounds::exactly(wildcard(&flat, "", pattern)),
        Test::Within { .. } => Bounds::at_most(Condition::exists(&flat)),
    };
    but_for(but_for(known, Some(Cut::Annotations)), Some(Cut::Annotation(key.to_owned())))
}

/// Whether OpenSearch takes a key for itself and not for a pattern.
fn is_literal(key: &str) -> bool {
    !key.contains(['*', '?', '\\'])
}

/// Every path that a path goes through, beginning with the root.
fn beginnings(path: &str) -> impl Iterator<Item = &str> {
    std::iter::once("").chain(path.match_indices('.').map(|(at, _)| &path[..at]))
}

/// Documents in which a word stands, in one of the fields.
pub(super) fn word_in(field: &str, word: &Pattern) -> Condition {
    match word.as_plain() {
        Some(word) => Condition::term(field, word),
        None => wildcard(field, "", word),
    }
}

/// Documents in which the words of a clause stand in one of the fields; none if documents can't tell that for sure.
pub(super) fn words_in(field: &str, clause: &TextClause) -> Option<Condition> {
    if let [word] = clause.words.as_slice() {
        return Some(word_in(field, word));
    }
    let plain: Vec<&str> = clause.words.iter().map(Pattern::as_plain).collect::<Option<_>>()?;
    let phrase = json!({ "query": plain.join(" "), "analyzer": "whitespace" });
    Some(Condition::Query(json!({ "match_phrase": { field: phrase } })))
}

fn words(clause: &TextClause) -> Bounds {
    let fields = WORDS.map(|(field, _)| field);
    let known = match fields.iter().map(|field| words_in(field, clause)).collect::<Option<Vec<_>>>() {
        Some(found) => Bounds::exactly(Condition::any(found)),
        None => {
            let each = clause.words.iter().map(|word| Condition::any(fields.map(|field| word_in(field, word))));
            Bounds::at_most(Condition::all(each))
        }
    };
    known.except(&cut(&Cut::Words))
}

/// The owner without which nothing passes.
fn needed_owner(expression: &Expression) -> Option<&str> {
    match expression {
        Expression::Field(FieldClause { field: Field::Owner, test: Test::Is(owner), .. }) => Some(owner),
        Expression::All(parts) => parts.iter().find_map(needed_owner),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use rstest::rstest;

    use super::*;
    use crate::query::parse;

    fn asked(query: &str) -> Bounds {
        let evaluator = Evaluator::new(parse(query).unwrap(), Timestamp::UNIX_EPOCH);
        Translator { evaluator: &evaluator, knows_paths: true }.of(evaluator.expression())
    }

    #[rstest]
    #[case("kind:Pod cluster:(a OR b)")]
    #[case("name:web* -namespace:shop")]
    #[case("name:>b")]
    #[case("name:*")]
    fn metadata_is_known_for_sure(#[case] query: &str) {
        assert_eq!(asked(query).doubtful(), Condition::Nothing);
    }

    #[rstest]
    #[case("metadata.generation:>3", "paths of metadata are not in the body")]
    #[case(".spec.a\\*b:x", "OpenSearch would take it for a pattern")]
    fn what_documents_cannot_tell_is_looked_at(#[case] query: &str, #[case] why: &str) {
        assert_eq!(asked(query), Bounds::unknown(), "{why}");
    }

    #[test]
    fn elements_are_never_sure_but_need_their_values() {
        let bounds = asked("container:{name:web NOT image:x}");
        assert_eq!(bounds.sure, Condition::Nothing);
        assert!(bounds.possible.to_query().to_string().contains("\"container\""), "{bounds:?}");
    }

    #[test]
    fn many_owners_are_asked_for_together() {
        let ways: Vec<String> = (0..90).map(|number| format!("(cluster:a owner:u{number})")).collect();
        let bounds = asked(&ways.join(" OR "));
        assert_eq!(bounds.sure, Condition::Nothing);
        assert!(bounds.possible.to_query().to_string().contains("\"terms\""));
        let ways: Vec<String> = (0..90).map(|number| format!("name:n{number}")).collect();
        assert_eq!(asked(&ways.join(" OR ")), Bounds::unknown());
    }

    #[rstest]
    #[case(1_000_000, true, true, ("gte", 1))]
    #[case(1_000_000, true, false, ("gt", 1))]
    #[case(1_000_001, true, true, ("gt", 1))]
    #[case(1_000_001, false, false, ("lte", 1))]
    #[case(1_000_000, false, false, ("lt", 1))]
    #[case(-1, false, true, ("lte", -1))]
    fn a_moment_within_a_millisecond_lies_behind_its_beginning(
        #[case] nanoseconds: i128,
        #[case] is_lower: bool,
        #[case] is_inclusive: bool,
        #[case] limit: (&str, i64),
    ) {
        assert_eq!(time_limit(nanoseconds, is_lower, is_inclusive), limit);
    }
}
