//! What of an object goes into the index: terms, each of which says one thing of it.
//!
//! ```text
//! c CLUSTER ⋅ GROUP ⋅ VERSION ⋅ RESOURCE   the part of the cache that it is in
//! r GROUP ⋅ VERSION ⋅ RESOURCE             the same over all clusters
//! p PATH | TAG VALUE                       a value at a path; of arrays, each element's, with a tag that says so of texts
//! i | s IMAGE      o | s NAME or UID      o | k KIND/NAME       images and owners, wherever they stand
//! n | s NAME      h | s TIME              names of containers; when it was last written
//! m | s STEP ⋅ STEP …                     where containers stand
//! w WEIGHT WORD                            a word of its text, and how much that weighs
//! x                                        some values are not among the terms
//! y                                        some words are not among the terms
//! ```
//!
//! `⋅` and `|` are control characters. PATH stands for the path's steps as a hash of 64 bits, because terms are written and
//! compared all the time and paths are long. A value that is too long, or has control characters in it, leaves only a term that says
//! so: then the object itself has to be looked at. What the tags say is what JSON says, so that the evaluator's own rules
//! decide about a term as they do about a value.

use std::hash::{Hash, Hasher};
use std::ops::Range as Span;
use std::sync::LazyLock;

use hashbrown::HashTable;
use serde_json_borrow::Value;
use tantivy::tokenizer::{Token, TokenStream, Tokenizer};
use twox_hash::XxHash3_64;

use crate::query::document::{Document, Weight};
use crate::query::evaluate::{Scalar, fold, words as words_of};
use crate::query::{Field, Test};
use crate::resource::{ClusterName, GroupVersionResource};

/// Between the terms of an object.
const SEPARATOR: char = '\u{3}';
/// Between a path's steps.
const STEP: char = '\u{1}';
/// Between a path and its value.
const VALUE: char = '\0';
/// The character behind [`VALUE`], where a path's values end.
const BEHIND_VALUES: char = '\u{1}';
/// Longer values leave only the term that they are there.
const LONGEST_VALUE: usize = 256;
/// Terms of values, and of words, an object.
const MOST: usize = 4096;

pub(super) const PART: &str = "c";
pub(super) const BEHIND_PARTS: &str = "d";
const CONTAINERS: &str = "m";
pub(super) const LACKS_VALUES: &str = "x";
pub(super) const LACKS_WORDS: &str = "y";

const IN_ARRAY: char = 'a';
const BOOL: char = 'b';
const NULL_LABEL: char = 'e';
const KIND_AND_NAME: char = 'k';
const NUMBER: char = 'n';
const OBJECT: char = 'o';
const TEXT: char = 's';
const CUT: char = 't';

/// One cluster's objects of one resource, as the cache keeps them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartKey {
    pub(crate) cluster: ClusterName,
    pub(crate) resource: GroupVersionResource,
    /// Of the rest, made once: a question looks up thousands of parts. Last, so that parts are ordered by their names.
    hash: u64,
}

impl Hash for PartKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl PartKey {
    pub(crate) fn new(cluster: ClusterName, resource: GroupVersionResource) -> Self {
        static HASHER: LazyLock<ahash::RandomState> = LazyLock::new(ahash::RandomState::new);
        Self { hash: HASHER.hash_one((&cluster, &resource)), cluster, resource }
    }

    /// Its term; none if a name can't stand in one.
    pub(super) fn term(&self) -> Option<String> {
        let GroupVersionResource { group, version, resource } = &self.resource;
        let names = [self.cluster.as_str(), group, version, resource];
        let is_plain = names.iter().all(|name| !name.chars().any(char::is_control));
        is_plain.then(|| format!("{PART}{}", names.join("\u{1}")))
    }

    /// Whether its objects can be in the index.
    pub(crate) fn is_indexable(&self) -> bool {
        self.term().is_some()
    }

    pub(super) fn from_term(term: &str) -> Option<Self> {
        let mut names = term.strip_prefix(PART)?.split(STEP);
        let cluster = ClusterName::from(names.next()?);
        let resource = GroupVersionResource::new(names.next()?, names.next()?, names.next()?);
        Some(Self::new(cluster, resource))
    }
}

pub(super) fn resource_term(resource: &GroupVersionResource) -> String {
    format!("r{}\u{1}{}\u{1}{}", resource.group, resource.version, resource.resource)
}

/// Where a field's values stand among the terms; none if the index doesn't have them.
fn place(field: &Field) -> Option<String> {
    let is_plain = |step: &&str| !step.chars().any(is_marker) && step.len() <= LONGEST_VALUE;
    let path = |steps: &[&str]| {
        steps.iter().all(is_plain).then(|| {
            let mut place = String::new();
            push_path(&steps.join("\u{1}"), &mut place);
            place
        })
    };
    match field {
        Field::Namespace => path(&["metadata", "namespace"]),
        Field::Name => path(&["metadata", "name"]),
        Field::Uid => path(&["metadata", "uid"]),
        Field::Created => path(&["metadata", "creationTimestamp"]),
        Field::Label(key) => path(&["metadata", "labels", key]),
        Field::Annotation(key) => path(&["metadata", "annotations", key]),
        Field::Image => Some("i".to_owned()),
        Field::Container => Some("n".to_owned()),
        Field::Changed => Some("h".to_owned()),
        Field::Owner | Field::OwnerChain => Some("o".to_owned()),
        Field::Path(steps) => {
            let is_left_out = matches!(steps.as_slice(), [first, second, ..] if is_left_out(first, second));
            let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
            if is_left_out { None } else { path(&steps) }
        }
        Field::Cluster | Field::Group | Field::Version | Field::Kind | Field::Resource => None,
    }
}

const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-_abcdefghijklmnopqrstuvwxyz";

/// Appends the place of a path's values, its steps given with [`STEP`] between them.
fn push_path(steps: &str, place: &mut String) {
    let hash = XxHash3_64::oneshot(steps.as_bytes());
    place.push('p');
    // Six bits a digit.
    let digits = (0..64).step_by(6).map(|from| usize::try_from((hash >> from) & 63).unwrap_or_default());
    place.extend(digits.map(|digit| char::from(DIGITS[digit])));
}

/// What managers wrote which field is as long as the object itself, and asked for by nobody.
fn is_left_out(first: &str, second: &str) -> bool {
    first == "metadata" && second == "managedFields"
}

/// Characters that mean something in terms.
fn is_marker(character: char) -> bool {
    character <= SEPARATOR
}

/// The tags of values that a field may have.
fn tags(field: &Field) -> &'static [char] {
    match field {
        Field::Path(_) => &[IN_ARRAY, BOOL, NUMBER, OBJECT, TEXT],
        Field::Label(_) => &[NULL_LABEL, TEXT],
        Field::Owner | Field::OwnerChain => &[KIND_AND_NAME, TEXT],
        _ => &[TEXT],
    }
}

/// A run of terms in their order: from the first on, up to but without the last.
pub(super) type Range = (Vec<u8>, Vec<u8>);

/// The terms that have to be looked at to know which objects' field passes; none if the index doesn't know. Each of them is
/// `place | TAG VALUE`; the number says where the tag stands.
pub(super) fn ranges(field: &Field, test: &Test) -> Option<(usize, Vec<Range>)> {
    let place = place(field)?;
    let tag_at = place.len() + 1;
    let ranges = tags(field).iter().map(|tag| {
        let head = format!("{place}{VALUE}{tag}");
        match test {
            // A number or quantity may be written in other ways.
            Test::Is(wanted) if is_one_text(field, wanted) => {
                let exact = format!("{head}{wanted}").into_bytes();
                let behind = [exact.as_slice(), &[0]].concat();
                (exact, behind)
            }
            Test::Like(pattern) => beginning_with(&format!("{head}{}", pattern.beginning())),
            Test::Is(_) | Test::Exists | Test::Within { .. } => beginning_with(&head),
        }
    });
    Some((tag_at, ranges.collect()))
}

fn is_one_text(field: &Field, wanted: &str) -> bool {
    !matches!(field, Field::Path(_)) || crate::query::value::Quantity::parse(wanted).is_none()
}

fn beginning_with(beginning: &str) -> Range {
    let mut behind = beginning.as_bytes().to_vec();
    // No UTF-8 text has this byte.
    behind.push(0xff);
    (beginning.as_bytes().to_vec(), behind)
}

/// All values of a field that can be shown; none if the index doesn't have them.
pub(super) fn shown(field: &Field) -> Option<(usize, Range)> {
    let place = place(field)?;
    Some((place.len() + 1, (format!("{place}{VALUE}").into_bytes(), format!("{place}{BEHIND_VALUES}").into_bytes())))
}

/// Objects in which something with fields of its own stands at a path; none if the index doesn't know.
pub(super) fn object_at(steps: &[String]) -> Option<String> {
    place(&Field::Path(steps.to_vec())).map(|place| format!("{place}{VALUE}{OBJECT}"))
}

/// Where containers stand in some objects: the terms, and where in one the path begins.
pub(super) fn container_lists() -> (usize, Range) {
    let head = format!("{CONTAINERS}{VALUE}{TEXT}");
    (head.len(), beginning_with(&head))
}

/// A path of [`container_lists`].
pub(super) fn path_of(text: &str) -> Vec<String> {
    text.split(STEP).map(str::to_owned).collect()
}

/// Objects that have values of a field which are not among the terms.
pub(super) fn cut(field: &Field) -> Option<String> {
    place(field).map(|place| format!("{place}{VALUE}{CUT}"))
}

fn word_place(weight: Weight) -> &'static str {
    match weight {
        Weight::Body => "w1",
        Weight::Label => "w4",
        Weight::Name => "w8",
    }
}

/// The words of a weight that begin so.
pub(super) fn words(weight: Weight, beginning: &str) -> (usize, Range) {
    let head = word_place(weight).to_owned();
    (head.len(), beginning_with(&format!("{head}{beginning}")))
}

/// Exactly this word.
pub(super) fn word(weight: Weight, word: &str) -> String {
    format!("{}{word}", word_place(weight))
}

/// What stands behind a tag; none if it isn't one of the field's values.
pub(super) fn scalar<'a>(field: &Field, tagged: &'a str) -> Option<Scalar<'a>> {
    let tag = tagged.chars().next()?;
    let value = &tagged[tag.len_utf8()..];
    if !tags(field).contains(&tag) {
        return None;
    }
    match tag {
        BOOL => Some(Scalar::Bool(value == "true")),
        NUMBER => Some(Scalar::Number(value)),
        OBJECT => Some(Scalar::Object),
        TEXT | IN_ARRAY | KIND_AND_NAME | NULL_LABEL => Some(Scalar::Text(value)),
        _ => None,
    }
}

/// A value as people see it and as it is sorted; none if it is not shown.
pub(super) fn shown_text(field: &Field, tagged: &str) -> Option<String> {
    // Of owners only kind and name are shown.
    if matches!(field, Field::Owner | Field::OwnerChain) && !tagged.starts_with(KIND_AND_NAME) {
        return None;
    }
    match (field, scalar(field, tagged)?) {
        (Field::Created, Scalar::Text(text)) => text.parse::<jiff::Timestamp>().ok().map(|time| time.to_string()),
        (Field::Namespace, Scalar::Text("")) | (_, Scalar::Object) => None,
        (_, Scalar::Text(text) | Scalar::Number(text)) => Some(text.to_owned()),
        (_, Scalar::Bool(truth)) => Some(truth.to_string()),
    }
}

/// Whether a text of the same letters may follow, with another tag: texts come last.
pub(super) fn may_be_alike(tagged: &str) -> bool {
    tagged.starts_with([IN_ARRAY, BOOL, NUMBER])
}

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    AtRoot,
    InField,
    InArray,
}

/// Collects the terms of one object after the other.
#[derive(Default)]
pub(super) struct Terms {
    text: String,
    last_length: usize,
    values: usize,
    /// Where the words stand that the text has already.
    words: HashTable<Span<usize>>,
    hasher: ahash::RandomState,
    lacks_values: bool,
    lacks_words: bool,
}

impl Terms {
    /// The terms of an object, in one text. Without the document, an object that always has to be looked at.
    pub(super) fn of(&mut self, part: &str, resource: &GroupVersionResource, document: Option<&Document>) -> String {
        // Most objects are about as long as the one before.
        self.text.reserve(self.last_length + self.last_length / 8);
        self.words.clear();
        (self.values, self.lacks_values, self.lacks_words) = (0, document.is_none(), document.is_none());
        self.push(part);
        self.push(&resource_term(resource));
        if let Some(document) = document {
            self.add_document(document);
        }
        for (lacks, term) in [(self.lacks_values, LACKS_VALUES), (self.lacks_words, LACKS_WORDS)] {
            if lacks {
                self.push(term);
            }
        }
        self.last_length = self.text.len();
        std::mem::take(&mut self.text)
    }

    fn push(&mut self, term: &str) {
        self.text.push_str(term);
        self.text.push(SEPARATOR);
    }

    fn add_document(&mut self, document: &Document) {
        let mut path = String::new();
        self.add_below(document.root(), &mut path, Stands::AtRoot);
        for image in document.images() {
            self.add_text("i", TEXT, image);
        }
        for name in document.container_names() {
            self.add_text("n", TEXT, name);
        }
        for (path, _) in document.container_lists() {
            self.add_container_list(&path);
        }
        if let Some(changed) = document.changed() {
            self.add_text("h", TEXT, &changed.to_string());
        }
        for (at, owner) in document.owners().iter().enumerate() {
            // Name, kind and name, unique id.
            self.add_text("o", if at % 3 == 1 { KIND_AND_NAME } else { TEXT }, owner);
        }
        document.texts(&mut |weight, text| self.add_words(weight, text));
    }

    fn add_below(&mut self, value: &Value<'_>, path: &mut String, stands: Stands) {
        match value {
            Value::Null if path.starts_with("metadata\u{1}labels\u{1}") => self.add_value(path, NULL_LABEL, ""),
            Value::Null => {}
            Value::Bool(truth) => self.add_value(path, BOOL, if *truth { "true" } else { "false" }),
            Value::Number(number) => self.add_value(path, NUMBER, &number.to_string()),
            Value::Str(text) => self.add_value(path, if stands == Stands::InArray { IN_ARRAY } else { TEXT }, text),
            Value::Array(elements) => {
                elements.iter().for_each(|element| self.add_below(element, path, Stands::InArray));
            }
            Value::Object(fields) => {
                let is_root = stands == Stands::AtRoot;
                if !is_root {
                    self.add_value(path, OBJECT, "");
                }
                let end = path.len();
                for (name, value) in fields.iter() {
                    if is_left_out(path, name) {
                        continue;
                    }
                    if name.chars().any(is_marker) || name.len() > LONGEST_VALUE {
                        self.lacks_values = true;
                        continue;
                    }
                    if !is_root {
                        path.push(STEP);
                    }
                    path.push_str(name);
                    self.add_below(value, path, Stands::InField);
                    path.truncate(end);
                }
            }
        }
    }

    fn add_value(&mut self, path: &str, tag: char, text: &str) {
        if self.has_room() {
            push_path(path, &mut self.text);
            self.add_behind_place(tag, text);
        }
    }

    fn add_text(&mut self, place: &str, tag: char, text: &str) {
        if self.has_room() {
            self.text.push_str(place);
            self.add_behind_place(tag, text);
        }
    }

    /// Whether one more value may be among the terms.
    fn has_room(&mut self) -> bool {
        let has_room = self.values < MOST;
        self.lacks_values |= !has_room;
        self.values += usize::from(has_room);
        has_room
    }

    fn add_behind_place(&mut self, tag: char, text: &str) {
        self.text.push(VALUE);
        if text.len() > LONGEST_VALUE || text.chars().any(is_marker) {
            self.text.push(CUT);
        } else {
            self.text.push(tag);
            self.text.push_str(text);
        }
        self.text.push(SEPARATOR);
    }

    fn add_container_list(&mut self, path: &[&str]) {
        if path.iter().any(|step| step.chars().any(is_marker) || step.len() > LONGEST_VALUE) {
            self.lacks_values = true;
            return;
        }
        self.text.push_str(CONTAINERS);
        self.text.push(VALUE);
        self.text.push(TEXT);
        for (at, step) in path.iter().enumerate() {
            if at > 0 {
                self.text.push(STEP);
            }
            self.text.push_str(step);
        }
        self.text.push(SEPARATOR);
    }

    fn add_words(&mut self, weight: Weight, text: &str) {
        for found in words_of(text) {
            let begun = self.text.len();
            self.text.push_str(word_place(weight));
            let word_at = self.text.len();
            fold(found, &mut self.text);
            if self.text.len() - word_at > LONGEST_VALUE || self.words.len() == MOST {
                self.lacks_words = true;
                self.text.truncate(begun);
                continue;
            }
            let (text, hasher) = (&self.text, &self.hasher);
            let span = begun..text.len();
            let hash = |span: &Span<usize>| hasher.hash_one(&text[span.clone()]);
            let is_there = self.words.find(hash(&span), |other| text[other.clone()] == text[span.clone()]).is_some();
            if is_there {
                self.text.truncate(begun);
            } else {
                self.words.insert_unique(hash(&span), span, hash);
                self.text.push(SEPARATOR);
            }
        }
    }
}

/// Takes an object's terms apart again.
#[derive(Debug, Clone, Default)]
pub(super) struct TermSplitter(Token);

impl Tokenizer for TermSplitter {
    type TokenStream<'a> = Split<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Split<'a> {
        self.0.reset();
        Split { rest: text, token: &mut self.0 }
    }
}

/// The terms of one object.
#[derive(Debug)]
pub(super) struct Split<'a> {
    rest: &'a str,
    token: &'a mut Token,
}

impl TokenStream for Split<'_> {
    fn advance(&mut self) -> bool {
        let Some(end) = memchr::memchr(SEPARATOR as u8, self.rest.as_bytes()) else { return false };
        let (term, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        self.token.text.clear();
        self.token.text.push_str(term);
        self.token.position = self.token.position.wrapping_add(1);
        true
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}
