//! `moretta-wire`.
