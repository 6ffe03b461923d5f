//! What lets programs that know nothing of MASQUE use a tunnel. A front end lives on the worker that owns its gateway's
//! connection, so that no datagram changes threads.

mod forward;

pub(crate) use forward::{Arrival, Forward, ForwardCounters, ForwardRequest};
