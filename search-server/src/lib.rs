//! The fleetglass program as a library: flags, wiring, and the routes that join the API service and the cache.
//!
//! ```text
//! args ─► run ─► reconcile (registries → plan) ─► indexer ─► routes ─► caller
//!            └─► conditions (what lags → registries' status)
//! ```
//!
//! [`run`] is the only place that wires; the routes only read.

pub mod args;
mod client;
pub mod columns;
mod conditions;
mod dashboards;
mod demo;
mod identity;
mod kubeconfig;
mod logging;
mod members;
mod observe;
mod reconcile;
mod routes;
pub mod run;
mod sent_to;
mod settings;
