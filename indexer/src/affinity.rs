//! Which clusters a registry is about.
//!
//! Pure: a [`ClusterAffinity`] and a [`Member`] in, yes or no out. `exclude` wins; then every condition that is given must
//! hold; none given means every cluster.

use kube::core::{Selector, SelectorExt};

use crate::member::Member;

/// `spec.targetCluster` of a ResourceRegistry, its selectors already read.
#[derive(Debug, Clone, Default)]
pub struct ClusterAffinity {
    /// Only clusters of these names; any name if empty.
    pub cluster_names: Vec<String>,
    /// Never clusters of these names.
    pub exclude: Vec<String>,
    /// Conditions on the cluster's labels.
    pub labels: Option<Selector>,
    /// Conditions on where the cluster runs.
    pub fields: Vec<LocationCondition>,
    /// The selectors could not be read, so no cluster is matched; the text says why.
    pub invalid: Option<String>,
}

/// A condition on where a cluster runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocationCondition {
    /// Which of the cluster's fields.
    pub field: LocationField,
    /// `In` if true, else `NotIn`.
    pub within: bool,
    /// The values named.
    pub values: Vec<String>,
}

/// The fields of a cluster that a registry can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocationField {
    /// `spec.provider`
    Provider,
    /// `spec.region`
    Region,
    /// `spec.zones`, of which one is enough for `In` and none is allowed for `NotIn`.
    Zone,
}

impl ClusterAffinity {
    /// Whether the member is selected.
    pub fn matches(&self, member: &Member) -> bool {
        let named = |names: &[String]| names.iter().any(|name| name == member.name.as_str());
        self.invalid.is_none()
            && !named(&self.exclude)
            && (self.cluster_names.is_empty() || named(&self.cluster_names))
            && self.labels.as_ref().is_none_or(|selector| selector.matches(&member.labels))
            && self.fields.iter().all(|condition| condition.holds(member))
    }
}

impl LocationCondition {
    fn holds(&self, member: &Member) -> bool {
        let named = |value: &String| self.values.contains(value);
        let overlaps = match self.field {
            LocationField::Provider => named(&member.location.provider),
            LocationField::Region => named(&member.location.region),
            LocationField::Zone => member.location.zones.iter().any(named),
        };
        overlaps == self.within
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use kube::core::Expression;

    use super::*;
    use crate::member::{Location, MemberAccess, MemberHealth};

    pub(crate) fn member(name: &str, labels: &[(&str, &str)]) -> Member {
        Member {
            name: name.into(),
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>(),
            location: Location {
                provider: "acme".into(),
                region: "north".into(),
                zones: vec!["n1".into(), "n2".into()],
            },
            health: MemberHealth::Ready,
            access: MemberAccess::Snapshot("/nowhere".into()),
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn nothing_asked_means_every_cluster() {
        assert!(ClusterAffinity::default().matches(&member("m1", &[])));
    }

    #[test]
    fn exclude_wins_over_names_and_all_conditions_must_hold() {
        let labels = Selector::from_iter([Expression::Equal("env".into(), "prod".into())]);
        let affinity =
            ClusterAffinity { cluster_names: names(&["m1", "m2"]), labels: Some(labels), ..Default::default() };
        assert!(affinity.matches(&member("m1", &[("env", "prod")])));
        assert!(!affinity.matches(&member("m1", &[("env", "test")])));
        assert!(!affinity.matches(&member("m3", &[("env", "prod")])));
        let excluded = ClusterAffinity { exclude: names(&["m1"]), ..affinity };
        assert!(!excluded.matches(&member("m1", &[("env", "prod")])));
    }

    #[test]
    fn one_zone_is_enough_for_in_and_none_is_allowed_for_not_in() {
        let zone = |within, values: &[&str]| ClusterAffinity {
            fields: vec![LocationCondition { field: LocationField::Zone, within, values: names(values) }],
            ..Default::default()
        };
        assert!(zone(true, &["n2", "s1"]).matches(&member("m1", &[])));
        assert!(!zone(true, &["s1"]).matches(&member("m1", &[])));
        assert!(!zone(false, &["n2", "s1"]).matches(&member("m1", &[])));
        assert!(zone(false, &["s1"]).matches(&member("m1", &[])));
    }

    #[test]
    fn a_selector_that_cannot_be_read_matches_nothing() {
        let affinity = ClusterAffinity { invalid: Some("bad".into()), ..Default::default() };
        assert!(!affinity.matches(&member("m1", &[])));
    }
}
