//! The credential step of an admission: who asks.
//!
//! Kinds of identity are a later addition; today there is only one answer to a request, and it depends on where the
//! listener is. Credentials that come with a request are ignored, except that two of them are an error whatever is in
//! them (C-9), which is judged with the rest of the head.

use crate::error::{Reason, Refusal};
use crate::snapshot::Listener;

/// Who asks for a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Identity {
    /// Nobody in particular.
    Anonymous,
}

/// Identifies the client, or refuses it (HG-1, UDP-67).
///
/// `listener`: as the snapshot has it; `None` if the snapshot no longer has it. `loopback`: the address that the
/// request came to is a loopback address, so the client is on this machine.
///
/// # Errors
/// [`Reason::CredentialsRequired`]: without an identity the gateway serves a loopback listener, or one whose
/// configuration says `danger_allow_anonymous`.
pub fn identify(listener: Option<&Listener>, loopback: bool) -> Result<Identity, Refusal> {
    let Some(listener) = listener else {
        return Err(Refusal::new(Reason::CredentialsRequired));
    };
    if loopback || listener.danger_allow_anonymous {
        Ok(Identity::Anonymous)
    } else {
        Err(Refusal::new(Reason::CredentialsRequired))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HG-1, UDP-67.
    #[test]
    fn nobody_in_particular_is_served_on_loopback_or_where_the_listener_says_so_and_nowhere_else() {
        let refused = Err(Refusal::new(Reason::CredentialsRequired));
        for (danger_allow_anonymous, loopback, served) in
            [(false, false, false), (false, true, true), (true, false, true), (true, true, true)]
        {
            let listener = Listener { danger_allow_anonymous, ..Listener::default() };
            let expected = if served { Ok(Identity::Anonymous) } else { refused.clone() };
            assert_eq!(identify(Some(&listener), loopback), expected);
        }
        assert_eq!(identify(None, true), refused, "a listener that is gone serves nobody");
    }
}
