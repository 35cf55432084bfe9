//! What the program tells of itself beside its log: metrics, health checks, traces, profiles.

pub(crate) mod backends;
pub(crate) mod checks;
pub(crate) mod disk;
pub(crate) mod index;
pub(crate) mod metrics;
pub(crate) mod profiles;
pub(crate) mod traces;
