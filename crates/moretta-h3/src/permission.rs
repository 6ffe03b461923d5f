//! Which frame may come where: RFC 9114 §4.1, §4.4, §6.2.1 and §7.2 as one table.

use crate::config::Role;
use crate::fault::Fault;
use crate::frame::FrameKind;

/// Where a receiving stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Control stream, nothing came yet.
    ControlStart,
    /// Control stream after SETTINGS.
    Control,
    /// Request stream before the request's head, or before the final response's.
    Head,
    /// After it: content, then perhaps trailers. Also a CONNECT that is not answered yet.
    Content,
    /// After the trailers.
    Trailers,
    /// A CONNECT answered with 2xx: the data stream of a tunnel.
    Tunnel,
}

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    /// Process it.
    Take,
    /// Skip its payload (RFC 9114 §9).
    Skip,
    /// Close the connection.
    Refuse(Fault),
}

const TAKE: Permission = Permission::Take;
const SKIP: Permission = Permission::Skip;
const UNEX: Permission = Permission::Refuse(Fault::FrameUnexpected);
const MISS: Permission = Permission::Refuse(Fault::SettingsMissing);
const PUSH: Permission = Permission::Refuse(Fault::PushNotAllowed);

/// What each phase says to a client and to a server, as receivers.
///
/// SETTINGS is missing whatever comes first on the control stream in its place, unknown types included (§6.2.1).
/// A client that never sent MAX_PUSH_ID is owed no push (§7.2.5); CANCEL_PUSH names pushes that never were (§7.2.3).
#[rustfmt::skip]
const TABLE: [(FrameKind, [[Permission; 6]; 2]); 9] = [
    //                                ControlStart Control Head  Content Trailers Tunnel
    (FrameKind::Data,        [/* client */ [MISS,  UNEX,   UNEX, TAKE,   UNEX,    TAKE],
                              /* server */ [MISS,  UNEX,   UNEX, TAKE,   UNEX,    TAKE]]),
    (FrameKind::Headers,     [/* client */ [MISS,  UNEX,   TAKE, TAKE,   UNEX,    UNEX],
                              /* server */ [MISS,  UNEX,   TAKE, TAKE,   UNEX,    UNEX]]),
    (FrameKind::CancelPush,  [/* client */ [MISS,  TAKE,   UNEX, UNEX,   UNEX,    UNEX],
                              /* server */ [MISS,  TAKE,   UNEX, UNEX,   UNEX,    UNEX]]),
    (FrameKind::Settings,    [/* client */ [TAKE,  UNEX,   UNEX, UNEX,   UNEX,    UNEX],
                              /* server */ [TAKE,  UNEX,   UNEX, UNEX,   UNEX,    UNEX]]),
    (FrameKind::PushPromise, [/* client */ [MISS,  UNEX,   PUSH, PUSH,   PUSH,    UNEX],
                              /* server */ [MISS,  UNEX,   UNEX, UNEX,   UNEX,    UNEX]]),
    (FrameKind::GoAway,      [/* client */ [MISS,  TAKE,   UNEX, UNEX,   UNEX,    UNEX],
                              /* server */ [MISS,  TAKE,   UNEX, UNEX,   UNEX,    UNEX]]),
    (FrameKind::MaxPushId,   [/* client */ [MISS,  UNEX,   UNEX, UNEX,   UNEX,    UNEX],
                              /* server */ [MISS,  TAKE,   UNEX, UNEX,   UNEX,    UNEX]]),
    (FrameKind::Http2,       [/* client */ [MISS,  UNEX,   UNEX, UNEX,   UNEX,    UNEX],
                              /* server */ [MISS,  UNEX,   UNEX, UNEX,   UNEX,    UNEX]]),
    (FrameKind::Unknown,     [/* client */ [MISS,  SKIP,   SKIP, SKIP,   SKIP,    SKIP],
                              /* server */ [MISS,  SKIP,   SKIP, SKIP,   SKIP,    SKIP]]),
];

/// Looks the table up for a receiver in `role`.
pub(crate) fn permission(role: Role, phase: Phase, frame: FrameKind) -> Permission {
    let by_role = TABLE.iter().find(|(kind, _)| *kind == frame).map(|(_, by_role)| by_role);
    by_role.and_then(|rows| rows.get(role as usize)).and_then(|row| row.get(phase as usize)).copied().unwrap_or(UNEX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 6] =
        [Phase::ControlStart, Phase::Control, Phase::Head, Phase::Content, Phase::Trailers, Phase::Tunnel];

    /// CAP-32, CAP-33, H3D-31, H3D-32; RFC 9114 §4.4, §6.2.1, §7.2.4.
    #[test]
    fn the_rows_that_matter_most_read_as_the_rfc() {
        for role in [Role::Client, Role::Server] {
            for frame in TABLE.map(|row| row.0) {
                let expected = match frame {
                    FrameKind::Data => TAKE,
                    FrameKind::Unknown => SKIP,
                    FrameKind::Headers
                    | FrameKind::CancelPush
                    | FrameKind::Settings
                    | FrameKind::PushPromise
                    | FrameKind::GoAway
                    | FrameKind::MaxPushId
                    | FrameKind::Http2 => UNEX,
                };
                assert_eq!(permission(role, Phase::Tunnel, frame), expected, "{role:?} {frame:?} in a tunnel");
                let expected = if frame == FrameKind::Settings { TAKE } else { MISS };
                assert_eq!(permission(role, Phase::ControlStart, frame), expected, "{role:?} {frame:?} first");
            }
            assert_eq!(permission(role, Phase::Control, FrameKind::Settings), UNEX);
        }
        assert_eq!(permission(Role::Client, Phase::Control, FrameKind::MaxPushId), UNEX);
        assert_eq!(permission(Role::Server, Phase::Control, FrameKind::MaxPushId), TAKE);
    }

    #[test]
    fn a_type_of_http2_is_never_permitted() {
        for role in [Role::Client, Role::Server] {
            for phase in PHASES {
                assert!(matches!(permission(role, phase, FrameKind::Http2), Permission::Refuse(_)));
            }
        }
    }
}
