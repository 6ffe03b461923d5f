//! Faults of libraries that fuzzing found, that we cannot mend, and that the core survives.
//!
//! A run goes on after one of these; the core has to have ended that one connection and nothing else. Any other panic
//! is a finding as ever. The version in each row is the one that we pin: with another one it is to be tried again.

use std::cell::Cell;
use std::panic::PanicHookInfo;
use std::sync::Once;

struct Known {
    file: &'static str,
    line: u32,
    message: &'static str,
}

const KNOWN: &[Known] = &[
    // RFC 9000 §4.5 is not kept for a STREAM frame with FIN that ends below what has come already. A RESET_STREAM with
    // the same final size is then taken for good, and flow control is credited with a negative number. Without checks
    // for overflow that would lift the connection's limit, which is why the release profile has them for this library.
    Known {
        file: "quinn-proto-0.11.19/src/connection/streams/state.rs",
        line: 362,
        message: "attempt to subtract with overflow",
    },
    // A packet from a new address and a probe timeout of the old path in one turn: nothing is under way on the new path
    // yet. Without debug assertions nothing comes of it, and so the development profile has them switched off for this
    // library; libFuzzer's builds switch all of them on.
    Known {
        file: "quinn-proto-0.11.19/src/connection/mod.rs",
        line: 1836,
        message: "assertion failed: !self.peer_completed_address_validation()",
    },
    Known {
        file: "quinn-proto-0.11.19/src/connection/mod.rs",
        line: 1681,
        message: "assertion failed: !self.peer_completed_address_validation()",
    },
];

thread_local! {
    static SEEN: Cell<u64> = const { Cell::new(0) };
}

/// How many there were in this thread so far.
pub(crate) fn seen() -> u64 {
    SEEN.get()
}

/// From now on known faults are counted, and not told to whoever listens for panics: libFuzzer would end the run.
pub(crate) fn watch() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if is_known(panic) {
                SEEN.set(SEEN.get() + 1);
            } else {
                before(panic);
            }
        }));
    });
}

fn is_known(panic: &PanicHookInfo<'_>) -> bool {
    // Panics of the language itself carry a text without arguments.
    let Some((location, message)) = panic.location().zip(panic.payload().downcast_ref::<&str>()) else { return false };
    KNOWN.iter().any(|known| {
        location.file().ends_with(known.file) && location.line() == known.line && *message == known.message
    })
}
