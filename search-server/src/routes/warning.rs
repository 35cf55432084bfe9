//! `Warning` headers: what an answer lacks, in words that kubectl prints.

use http::header::WARNING;
use http::{HeaderMap, HeaderValue};
use indexer::status::Notice;

/// More notices than this become one line that says where to look.
const MOST: usize = 10;
/// A header longer than this is cut; kubectl would cut it too.
const LONGEST: usize = 400;

/// What is told of an answer to which not everything was looked at.
pub(crate) const PARTIAL: &str =
    "the query took too long and was ended; the answer is partial: narrow it by cluster, kind or namespace";

/// Adds a warning for each notice.
pub(super) fn warn(headers: &mut HeaderMap, notices: &[Notice]) {
    if notices.len() > MOST {
        append(headers, &summary(notices));
    } else {
        notices.iter().for_each(|notice| append(headers, &notice.text()));
    }
}

fn summary(notices: &[Notice]) -> String {
    let count = |wanted: fn(&Notice) -> bool| notices.iter().filter(|notice| wanted(notice)).count();
    let out_of_touch = count(|notice| matches!(notice, Notice::OutOfTouch { .. }));
    let not_synced = count(|notice| matches!(notice, Notice::NotSynced { .. }));
    let refused = count(|notice| matches!(notice, Notice::Refused { .. }));
    let unreadable = count(|notice| matches!(notice, Notice::UnreadableFiles { .. }));
    let other = count(|notice| matches!(notice, Notice::OtherVersion { .. }));
    format!(
        "{out_of_touch} clusters out of touch, {not_synced} not read yet, {refused} with objects that are left out, \
         {unreadable} with files that can't be read, {other} in another version; \
         see /apis/search.karmada.io/v1alpha1/search/status"
    )
}

pub(super) fn append(headers: &mut HeaderMap, text: &str) {
    let mut quoted = String::from("299 - \"");
    for character in text.chars().take(LONGEST) {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' => quoted.push(character),
            _ => quoted.push(' '),
        }
    }
    quoted.push('"');
    // Only visible ASCII is left, which every header value may hold.
    if let Ok(value) = HeaderValue::from_str(&quoted) {
        headers.append(WARNING, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(notices: &[Notice]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        warn(&mut headers, notices);
        headers.get_all(WARNING).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    fn out_of_touch(name: &str) -> Notice {
        let since = "2026-01-02T03:04:05Z".parse().unwrap();
        Notice::OutOfTouch { cluster: name.into(), since, objects: 29 }
    }

    #[test]
    fn a_cluster_out_of_touch_is_named_with_its_age() {
        assert_eq!(
            headers(&[out_of_touch("member1")]),
            ["299 - \"cluster member1 out of touch since 2026-01-02T03:04:05Z; showing its 29 objects as last seen\""]
        );
    }

    #[test]
    fn many_clusters_become_one_line_that_says_where_to_look() {
        let many: Vec<_> = (0..11).map(|number| out_of_touch(&format!("m{number}"))).collect();
        let lines = headers(&many);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("11 clusters out of touch") && lines[0].contains("search/status"));
    }

    #[test]
    fn hostile_words_cannot_break_out_of_the_header() {
        let reason = Some("\"\r\nSet-Cookie: x\\".to_owned());
        let lines = headers(&[Notice::NotSynced { cluster: "m".into(), objects: 0, reason }]);
        assert!(lines[0].contains("\\\"  Set-Cookie: x\\\\"));
    }
}
