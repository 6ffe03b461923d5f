//! `moretta-engine`.
