//! Reading the few fields that a row shows, from an object's JSON, without ever failing.
//!
//! In: bytes. Out: small structs that borrow from them. A field of an unexpected type reads as if it were not there, so one
//! odd field in one object empties its own cell and nothing else.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Reads an object, or as much of it as can be understood.
pub(super) fn read<'a, T: Deserialize<'a> + Default>(object: &'a [u8]) -> T {
    serde_json::from_slice(object).unwrap_or_default()
}

/// An object with the usual three parts.
#[derive(Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "S: Deserialize<'de> + Default, T: Deserialize<'de> + Default"))]
pub(super) struct Object<'a, S, T> {
    #[serde(borrow)]
    pub(super) metadata: Lenient<Metadata<'a>>,
    pub(super) spec: Lenient<S>,
    pub(super) status: Lenient<T>,
}

/// What rows show of `metadata`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata<'a> {
    #[serde(borrow)]
    pub(super) name: Text<'a>,
    pub(super) namespace: Text<'a>,
    pub(super) creation_timestamp: Text<'a>,
    pub(super) deletion_timestamp: Text<'a>,
    pub(super) labels: Map<'a>,
    pub(super) annotations: Map<'a>,
}

impl Metadata<'_> {
    pub(super) fn is_being_deleted(&self) -> bool {
        !self.deletion_timestamp.is_empty()
    }

    /// How long ago the object was made.
    pub(super) fn age(&self, now: Timestamp) -> String {
        since(&self.creation_timestamp, now)
    }
}

/// How long ago a time was, as kubectl says it.
pub(super) fn since(time: &str, now: Timestamp) -> String {
    time.parse().map_or_else(|_| "<unknown>".to_owned(), |then| apiservice::table::age(then, now))
}

/// Strings by name, looked into only when needed.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(transparent)]
pub(super) struct Map<'a>(#[serde(borrow)] Option<&'a RawValue>);

impl<'a> Map<'a> {
    pub(super) fn entries(self) -> BTreeMap<Text<'a>, Text<'a>> {
        self.0.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    }

    pub(super) fn get(self, key: &str) -> Option<Text<'a>> {
        self.entries().remove(key)
    }

    /// How many entries there are, whatever their values.
    pub(super) fn len(self) -> usize {
        let counted = self.0.and_then(|raw| serde_json::from_str::<BTreeMap<Text<'_>, IgnoredAny>>(raw.get()).ok());
        counted.map_or(0, |entries| entries.len())
    }
}

/// A value that is the default where it can't be read.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Lenient<T>(pub(super) T);

impl<T> Deref for Lenient<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: &'de RawValue = Deserialize::deserialize(deserializer)?;
        Ok(Self(serde_json::from_str(raw.get()).unwrap_or_default()))
    }
}

/// A string, or a number or truth value written as one; empty for anything else.
#[derive(Debug, Default, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    /// The text, or what stands for none.
    pub(super) fn or<'b>(&'b self, none: &'b str) -> &'b str {
        if self.is_empty() { none } else { self }
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("anything")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(value.to_string())))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(value.to_string())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(value.to_string())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(value.to_string())))
    }

    fn visit_unit<E>(self) -> Result<Text<'de>, E> {
        Ok(Text::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Text<'de>, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Text<'de>, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text::default())
    }
}

/// A whole number; 0 for anything else.
pub(super) type Count = Lenient<i64>;

/// `status.conditions`, as most kinds have them.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct Conditions<'a>(#[serde(borrow)] Lenient<Vec<Condition<'a>>>);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Condition<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Text<'a>,
    pub(super) status: Text<'a>,
    pub(super) reason: Text<'a>,
}

impl<'a> Conditions<'a> {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Condition<'a>> {
        self.0.iter()
    }

    /// The status of the first condition of a type.
    pub(super) fn status(&self, kind: &str) -> Option<&str> {
        self.iter().find(|condition| *condition.kind == *kind).map(|condition| &*condition.status)
    }

    pub(super) fn is_true(&self, kind: &str) -> bool {
        self.status(kind) == Some("True")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Sample<'a> = Object<'a, Parts<'a>, IgnoredAny>;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Parts<'a> {
        #[serde(borrow)]
        text: Text<'a>,
        count: Count,
        flag: Lenient<Option<bool>>,
        list: Lenient<Vec<Text<'a>>>,
    }

    #[test]
    fn an_odd_field_reads_as_missing_and_the_rest_is_read() {
        let object = br#"{"metadata":{"name":"a","labels":[1],"creationTimestamp":null},
            "spec":{"text":["x"],"count":"many","flag":"yes","list":["a",5,{}]},"status":7}"#;
        let sample: Sample<'_> = read(object);
        assert_eq!(&*sample.metadata.name, "a");
        assert!(sample.metadata.labels.entries().is_empty());
        assert_eq!((&*sample.spec.text, *sample.spec.count, *sample.spec.flag), ("", 0, None));
        let list: Vec<&str> = sample.spec.list.iter().map(|text| &**text).collect();
        assert_eq!(list, ["a", "5", ""]);
    }

    #[test]
    fn escaped_text_is_read() {
        let sample: Sample<'_> = read(br#"{"spec":{"text":"say \"hi\""}}"#);
        assert_eq!(&*sample.spec.text, "say \"hi\"");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(object in prop::collection::vec(any::<u8>(), 0..200)) {
            let sample: Sample<'_> = read(&object);
            prop_assert!(sample.spec.list.len() <= object.len());
        }
    }
}
