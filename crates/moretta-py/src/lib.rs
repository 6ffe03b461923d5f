//! `moretta-py`.
