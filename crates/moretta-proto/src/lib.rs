//! `moretta-proto`.
