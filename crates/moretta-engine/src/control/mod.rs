//! What control code asked for, turned into messages for workers. Commands are checked and routed on the caller's
//! thread; what must wait for a name or for compilation is done on the helper.

mod commands;
mod compile;
mod snapshots;

pub(crate) use commands::{GatewayPlan, submit, to_helper};
pub(crate) use snapshots::Snapshots;
