//! How things are called: several hundred applications, spread over clusters and namespaces so that names come in order.
//!
//! Within a namespace stand ten applications, in the order of the alphabet; each has twenty pods, whose order their last part
//! begins with. What is replaced gets another name in the same place.

use super::template::push_decimal;

/// Pods of a namespace.
pub(crate) const NAMESPACE_PODS: usize = 200;
/// Applications of a namespace.
pub(crate) const NAMESPACE_APPLICATIONS: usize = 10;
/// Pods of an application.
const APPLICATION_PODS: usize = NAMESPACE_PODS / NAMESPACE_APPLICATIONS;
/// Applications that a place in a namespace may have.
const CHOICE: usize = PRODUCTS.len() * COMPONENTS.len() / NAMESPACE_APPLICATIONS;
/// What Kubernetes makes names from, in order.
const LETTERS: &[u8; 27] = b"2456789bcdfghjklmnpqrstvwxz";

/// In order, as all below depends on it.
const PRODUCTS: [&str; 30] = [
    "account",
    "basket",
    "billing",
    "booking",
    "catalog",
    "checkout",
    "claims",
    "customer",
    "delivery",
    "discount",
    "event",
    "fraud",
    "identity",
    "inventory",
    "invoice",
    "ledger",
    "loyalty",
    "mail",
    "notify",
    "order",
    "payment",
    "pricing",
    "profile",
    "quote",
    "rating",
    "refund",
    "report",
    "search",
    "shipping",
    "tax",
];
const COMPONENTS: [&str; 20] = [
    "admin",
    "api",
    "audit",
    "batch",
    "cache",
    "client",
    "cron",
    "engine",
    "export",
    "feed",
    "gateway",
    "importer",
    "indexer",
    "proxy",
    "queue",
    "reader",
    "scheduler",
    "store",
    "web",
    "worker",
];

/// An application, of which there are many copies.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) name: String,
    pub(crate) product: &'static str,
    pub(crate) component: &'static str,
}

/// All applications, in order.
pub(crate) fn applications() -> Vec<Application> {
    let products = PRODUCTS.iter().flat_map(|product| COMPONENTS.iter().map(move |component| (product, component)));
    products
        .map(|(product, component)| Application { name: format!("{product}-{component}"), product, component })
        .collect()
}

/// The application at a place of a namespace, chosen by the namespace's own number.
pub(crate) fn application_at(place: usize, choice: u64) -> usize {
    place * CHOICE + below(choice, CHOICE)
}

/// Where a pod stands in its namespace: at which application's place, and as which of its pods.
pub(crate) fn place_of_pod(index: usize) -> (usize, usize) {
    let within = index % NAMESPACE_PODS;
    (within / APPLICATION_PODS, within % APPLICATION_PODS)
}

/// The name of the namespace with this number.
pub(crate) fn namespace(number: usize) -> String {
    let mut name = Vec::with_capacity(9);
    push_namespace(&mut name, number);
    String::from_utf8_lossy(&name).into_owned()
}

/// Writes the name of the namespace with this number.
pub(crate) fn push_namespace(buffer: &mut Vec<u8>, number: usize) {
    buffer.extend_from_slice(b"space-");
    push_decimal(buffer, number, 3);
}

/// The number of a namespace.
pub(crate) fn namespace_number(name: &str) -> Option<usize> {
    name.strip_prefix("space-")?.parse().ok().filter(|number| namespace(*number) == name)
}

/// What tells an application's revision from others, as ReplicaSets have it.
pub(crate) fn revision(random: u64) -> [u8; 10] {
    let mut rest = random;
    std::array::from_fn(|_| letter_of(&mut rest))
}

/// The last part of a pod's name. In order of the pods of an application, whatever they were replaced by; and never the same
/// again for the pods that come after each other in one place.
pub(crate) fn pod_suffix(rank: usize, application: u64, pod: u64, life: usize) -> [u8; 5] {
    let room = LETTERS.len() - APPLICATION_PODS + 1;
    // Steps that have no divisor in common with 27 reach every name before one comes again.
    let mut rest = pod % LETTERS.len().pow(4) as u64 + life as u64 * 77_773;
    let first = LETTERS.get(rank + below(application, room)).copied().unwrap_or(b'z');
    let others: [u8; 4] = std::array::from_fn(|_| letter_of(&mut rest));
    [first, others[0], others[1], others[2], others[3]]
}

fn letter_of(rest: &mut u64) -> u8 {
    let letter = LETTERS[below(*rest, LETTERS.len())];
    *rest /= LETTERS.len() as u64;
    letter
}

/// A number below a bound, from a random one.
pub(crate) fn below(random: u64, bound: usize) -> usize {
    usize::try_from(random % bound.max(1) as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applications_are_in_order_and_all_different() {
        let names: Vec<String> = applications().into_iter().map(|application| application.name).collect();
        assert_eq!(names.len(), 600);
        assert!(names.is_sorted_by(|one, next| one < next));
    }

    #[test]
    fn a_namespace_is_found_by_its_own_name_alone() {
        assert_eq!(namespace_number("space-042"), Some(42));
        assert_eq!(namespace_number("space-42"), None);
        assert_eq!(namespace_number("kube-system"), None);
    }

    #[test]
    fn what_replaces_a_pod_has_another_name_in_the_same_place() {
        let names: std::collections::BTreeSet<[u8; 5]> = (0..5000).map(|life| pod_suffix(3, 9, 1234, life)).collect();
        assert_eq!(names.len(), 5000);
        assert!(pod_suffix(3, 9, 77, 900) < pod_suffix(4, 9, 1, 0));
    }
}
