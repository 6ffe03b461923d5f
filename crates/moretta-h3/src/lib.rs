//! `moretta-h3`.
