//! `moretta-io`.
