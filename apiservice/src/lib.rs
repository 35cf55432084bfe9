//! Everything a Kubernetes aggregated API server must be, and nothing of search.
//!
//! ```text
//! socket ─► serve + tls ─► layers ─► authn ─► audit ─► authz ─► route ─┬► registry ─► storage
//!                                                                     ├► discovery · openapi · health · metrics
//!                                                                     └► routers handed in (search)
//!                                                                                └─► encode · table · error ─► caller
//! ```
//!
//! Requests go from left to right and never back. Everything that can fail ends as an [`error::ApiError`]; nothing in
//! here knows what a member cluster or an index is.

pub mod audit;
pub mod authn;
pub mod authz;
mod body;
pub mod discovery;
pub mod encode;
pub mod error;
pub mod health;
pub mod layers;
pub mod managed_fields;
pub mod metrics;
pub mod openapi;
pub mod patch;
pub mod registry;
pub mod request;
pub mod router;
pub mod selector;
pub mod serve;
pub mod storage;
pub mod table;
pub mod tls;
pub mod types;
pub mod validation;

/// The API group that is served.
pub const GROUP: &str = "search.karmada.io";
/// The one version of [`GROUP`].
pub const VERSION: &str = "v1alpha1";
/// `GROUP/VERSION` as objects carry it in `apiVersion`.
pub const GROUP_VERSION: &str = "search.karmada.io/v1alpha1";
/// Where the routes of the group begin.
pub const GROUP_VERSION_PATH: &str = "/apis/search.karmada.io/v1alpha1";
