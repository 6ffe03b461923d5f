//! `moretta-sim`.
