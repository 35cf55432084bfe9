//! The fleetglass program as a library: flags, wiring, and the routes that join the API service and the cache.

pub mod args;
