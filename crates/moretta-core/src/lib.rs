//! `moretta-core`.
