//! The table as a document: the Python package and the documentation read it.

use serde::Serialize;

use super::{DropReason, DropRow, EndReason, EndRow, Reason, Row};

/// Every row, with what is derived from it.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorTable {
    version: u32,
    refusals: Vec<Documented<Row>>,
    ends: Vec<Documented<EndRow>>,
    drops: Vec<Documented<DropRow>>,
}

#[derive(Clone, Debug, Serialize)]
struct Documented<R: 'static> {
    #[serde(flatten)]
    row: &'static R,
    /// The anchor in the reference page of errors.
    docs: String,
}

impl ErrorTable {
    /// The table as it is compiled in.
    pub fn new() -> Self {
        Self {
            version: 1,
            refusals: Reason::ALL.iter().map(|reason| documented(reason.row(), "refused", reason.code())).collect(),
            ends: EndReason::ALL.iter().map(|reason| documented(reason.row(), "ended", reason.code())).collect(),
            drops: DropReason::ALL.iter().map(|reason| documented(reason.row(), "dropped", reason.code())).collect(),
        }
    }
}

impl Default for ErrorTable {
    fn default() -> Self {
        Self::new()
    }
}

/// The table as JSON: `{"version": 1, "refusals": […], "ends": […], "drops": […]}`.
pub fn table_json() -> String {
    // Static strings and numbers only: there is nothing in it that JSON cannot hold.
    serde_json::to_string(&ErrorTable::new()).unwrap_or_default()
}

fn documented<R>(row: &'static R, kind: &str, code: &str) -> Documented<R> {
    Documented { row, docs: format!("{kind}-{}", code.replace('_', "-")) }
}
