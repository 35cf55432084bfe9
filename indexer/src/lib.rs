//! The way of the data, from member clusters to the one copy that every answer is served from.
//!
//! ```text
//! source ─► plan ─► reflector ─► cache ─► view ─► (routes of the binary)
//! ```
//!
//! - [`source`] tells which member clusters there are and how to reach them ([`member`]).
//! - [`plan`] says, as a pure function, which (cluster, resource) to watch for the present registries.
//! - [`supervise`] keeps one task for each of them; [`reflector`] lists and watches raw bytes over a [`connection`].
//! - [`cache`] holds each object once, as a compressed frame ([`codec`], [`entry`]), in key order, with a feed of changes.
//! - [`disk`] keeps the cache in files, so that a restart goes on from there.
//! - [`index`] follows the cache's feed and knows which objects have which value; [`search`] answers queries ([`query`]) from it.
//! - [`backend`] writes what registries send elsewhere to OpenSearch.
//! - [`status`] says what follows its cluster, what lags, and why.
//! - [`view`] reads pages, single objects and watches out of it, over all clusters at once ([`version`]).
//!
//! Arrows never turn back: a reader never writes, and a member's task writes its own keys only.

pub mod affinity;
pub mod backend;
pub mod cache;
pub mod codec;
pub mod connection;
pub mod disk;
pub mod entry;
pub mod filter;
pub mod index;
pub mod member;
pub mod plan;
pub mod query;
pub mod raw;
pub mod reflector;
pub mod resource;
pub mod search;
pub mod shard;
pub mod source;
pub mod status;
pub mod supervise;
pub mod version;
pub mod view;
