//! Whole requests over real TLS: who gets in, what they are told, and that nobody's bad behaviour hurts another.

mod behaviour;
mod identity;
mod world;
