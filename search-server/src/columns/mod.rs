//! What people expect to see of an object in a table: the columns of `kubectl get`, with the cluster in front.
//!
//! In: a kind, and the bytes of one object at a time. Out: column definitions and cells. Pure: no clock, no cache, no
//! request; an object that can't be understood gives empty cells, never an error.
//!
//! kubectl itself puts NAMESPACE in front under `-A`, from the row's object, so a table for kubectl must not have it:
//! it would be there twice. [`Printer::with_namespace`] adds it for other readers, see [`namespace_is_wanted`].

mod access;
mod autoscaling;
mod cluster;
mod custom;
mod network;
mod pods;
mod read;
mod storage;
mod words;
mod workloads;

#[cfg(test)]
mod tests;

use apiservice::table::Column;
use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde_json::Value;

use custom::CustomCells;
pub use custom::CustomColumn;
use read::Object;
use words::{AGE, CREATED, Heading, NAME};

type Cells = fn(object: &[u8], now: Timestamp) -> Vec<Value>;

/// A kind that Kubernetes brings along, and how its objects are shown.
#[derive(Debug)]
struct Kind {
    group: &'static str,
    kind: &'static str,
    headings: &'static [Heading],
    cells: Cells,
}

const fn kind(group: &'static str, kind: &'static str, headings: &'static [Heading], cells: Cells) -> Kind {
    Kind { group, kind, headings, cells }
}

/// Kinds of which kubectl shows the moment of creation instead of the age.
const DATED: &[Heading] = &[NAME, CREATED];
const PLAIN: Kind = kind("", "", &[NAME, AGE], plain);

const ADMISSION: &str = "admissionregistration.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";

static KINDS: &[Kind] = &[
    kind("", "Pod", pods::POD, pods::pod),
    kind("", "ReplicationController", workloads::REPLICA_SET, workloads::replication_controller),
    kind("apps", "ControllerRevision", workloads::CONTROLLER_REVISION, workloads::controller_revision),
    kind("apps", "DaemonSet", workloads::DAEMON_SET, workloads::daemon_set),
    kind("apps", "Deployment", workloads::DEPLOYMENT, workloads::deployment),
    kind("apps", "ReplicaSet", workloads::REPLICA_SET, workloads::replica_set),
    kind("apps", "StatefulSet", workloads::STATEFUL_SET, workloads::stateful_set),
    kind("batch", "CronJob", workloads::CRON_JOB, workloads::cron_job),
    kind("batch", "Job", workloads::JOB, workloads::job),
    kind("policy", "PodDisruptionBudget", workloads::DISRUPTION_BUDGET, workloads::disruption_budget),
    kind("autoscaling", "HorizontalPodAutoscaler", autoscaling::AUTOSCALER, autoscaling::autoscaler),
    kind("", "Service", network::SERVICE, network::service),
    kind("", "Endpoints", network::ENDPOINTS, network::endpoints),
    kind("discovery.k8s.io", "EndpointSlice", network::ENDPOINT_SLICE, network::endpoint_slice),
    kind(NETWORKING, "Ingress", network::INGRESS, network::ingress),
    kind(NETWORKING, "IngressClass", network::INGRESS_CLASS, network::ingress_class),
    kind(NETWORKING, "NetworkPolicy", network::NETWORK_POLICY, network::network_policy),
    kind("", "ConfigMap", storage::CONFIG_MAP, storage::config_map),
    kind("", "Secret", storage::SECRET, storage::secret),
    kind("", "PersistentVolume", storage::VOLUME, storage::volume),
    kind("", "PersistentVolumeClaim", storage::VOLUME_CLAIM, storage::volume_claim),
    kind("storage.k8s.io", "StorageClass", storage::STORAGE_CLASS, storage::storage_class),
    kind("", "Event", cluster::EVENT, cluster::event),
    kind("events.k8s.io", "Event", cluster::EVENT, cluster::event),
    kind("", "LimitRange", DATED, dated),
    kind("", "Namespace", cluster::NAMESPACE, cluster::namespace),
    kind("", "Node", cluster::NODE, cluster::node),
    kind("", "ResourceQuota", cluster::QUOTA, cluster::quota),
    kind("apiextensions.k8s.io", "CustomResourceDefinition", DATED, dated),
    kind("coordination.k8s.io", "Lease", cluster::LEASE, cluster::lease),
    kind("node.k8s.io", "RuntimeClass", cluster::RUNTIME_CLASS, cluster::runtime_class),
    kind("scheduling.k8s.io", "PriorityClass", cluster::PRIORITY_CLASS, cluster::priority_class),
    kind(ADMISSION, "MutatingWebhookConfiguration", access::WEBHOOKS, access::webhooks),
    kind(ADMISSION, "ValidatingWebhookConfiguration", access::WEBHOOKS, access::webhooks),
    kind("certificates.k8s.io", "CertificateSigningRequest", access::SIGNING_REQUEST, access::signing_request),
    kind(RBAC, "ClusterRole", DATED, dated),
    kind(RBAC, "ClusterRoleBinding", access::ROLE_BINDING, access::role_binding),
    kind(RBAC, "Role", DATED, dated),
    kind(RBAC, "RoleBinding", access::ROLE_BINDING, access::role_binding),
];

/// How the objects of one kind are shown; chosen once for a list.
#[derive(Debug)]
pub struct Printer {
    shows: Shows,
    namespace: bool,
}

#[derive(Debug)]
enum Shows {
    Known(&'static Kind),
    Custom(CustomCells),
}

impl Printer {
    /// For a kind that Kubernetes brings along, with kubectl's columns; for any other, with the columns that its
    /// definition asks for; with name and age if it asks for none.
    pub fn for_kind(group: &str, kind: &str, custom: &[CustomColumn]) -> Self {
        let known = KINDS.iter().find(|known| known.group == group && known.kind == kind);
        let shows = match known {
            Some(known) => Shows::Known(known),
            None if custom.is_empty() => Shows::Known(&PLAIN),
            None => Shows::Custom(CustomCells::new(custom)),
        };
        Self { shows, namespace: false }
    }

    /// The same with, or without, the namespace between cluster and name.
    #[must_use]
    pub fn with_namespace(self, namespace: bool) -> Self {
        Self { namespace, ..self }
    }

    /// The columns: the cluster, the namespace if wanted, and the kind's own.
    pub fn definitions(&self) -> Vec<Column> {
        let mut columns = vec![Column::new("Cluster", "string", "The cluster that the object is in.")];
        if self.namespace {
            columns.push(Column::new("Namespace", "string", "Namespace of the object."));
        }
        match &self.shows {
            Shows::Known(kind) => columns.extend(kind.headings.iter().map(Heading::column)),
            Shows::Custom(custom) => {
                columns.push(NAME.column());
                columns.extend(custom.columns());
            }
        }
        columns
    }

    /// One value for each column. `object` is its JSON; ages are those at `now`.
    pub fn cells(&self, object: &[u8], cluster: &str, now: Timestamp) -> Vec<Value> {
        let mut cells = vec![Value::from(cluster)];
        if self.namespace {
            let Plain { metadata, .. } = read::read(object);
            cells.push(Value::from(&*metadata.namespace));
        }
        match &self.shows {
            Shows::Known(kind) => cells.extend((kind.cells)(object, now)),
            Shows::Custom(custom) => cells.extend(custom.cells(object, now)),
        }
        cells
    }
}

/// Whether a table should have a namespace column: the objects have namespaces, no single one was asked for, and the reader
/// is not kubectl, which adds the column itself.
pub fn namespace_is_wanted(user_agent: &str, namespaced: bool, one_namespace: bool) -> bool {
    namespaced && !one_namespace && !user_agent.starts_with("kubectl")
}

impl Heading {
    fn column(&self) -> Column {
        let column = Column::new(self.name, self.kind, self.description);
        let column = Column { format: self.format.to_owned(), ..column };
        if self.wide { column.wide() } else { column }
    }
}

type Plain<'a> = Object<'a, IgnoredAny, IgnoredAny>;

fn plain(object: &[u8], now: Timestamp) -> Vec<Value> {
    let Plain { metadata, .. } = read::read(object);
    vec![(*metadata.name).into(), metadata.age(now).into()]
}

fn dated(object: &[u8], _now: Timestamp) -> Vec<Value> {
    let Plain { metadata, .. } = read::read(object);
    vec![(*metadata.name).into(), (*metadata.creation_timestamp).into()]
}
