//! Counters by reason. Plain numbers: the driver publishes them.

macro_rules! counters {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl $name {
            /// Every counter with its stable name, in the order of declaration.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field)),*].into_iter()
            }

            /// Adds another core's counters, field by field.
            pub fn add(&mut self, other: &Self) {
                $(self.$field = self.$field.saturating_add(other.$field);)*
            }
        }
    };
}

counters! {
    /// What one core did and what it dropped or refused, one number per reason; they only rise.
    ///
    /// Towards the target: `datagrams_from_peer` = `datagrams_to_flows` + every `up_dropped_*`.
    /// Towards the client: `datagrams_from_flows` = `datagrams_to_peer` + `datagrams_to_peer_in_capsules` + every
    /// `down_dropped_*` + what waits in queues now.
    pub struct Counters {
        /// Calls of `turn`.
        turns,
        /// QUIC packets (UDP payloads) taken from links.
        packets_received,
        /// Bytes in them.
        bytes_received,
        /// Packets copied out of their train: those of handshakes, and all while streams hold bytes.
        packets_copied,
        /// QUIC packets handed out.
        packets_sent,
        /// Bytes in them.
        bytes_sent,
        /// Packets of another slot, handed to it through [`Action::Forward`](crate::Action::Forward).
        packets_forwarded,
        /// Links that failed.
        link_errors,
        /// Packets on a link that nothing is attached to.
        dropped_unknown_link,
        /// Packets too short or too strange to carry a connection ID.
        dropped_malformed_packets,
        /// Packets shed because their connection's inbox was full.
        dropped_inbox_full,
        /// Packets shed because all inboxes together were full.
        dropped_inboxes_full,
        /// Packets for a connection that is gone from the core but not yet from its endpoint.
        dropped_no_connection,
        /// Answers of an endpoint (Retry, version negotiation, stateless reset, refusal) that found no room.
        dropped_endpoint_answers,
        /// Packets for an address that is not proved and has had three times what came from there.
        dropped_unproved_address,
        /// Version negotiations, stateless resets and refusals sent by endpoints.
        endpoint_answers,

        /// Connections accepted.
        connections_accepted,
        /// Connections opened by gateways.
        connections_opened,
        /// Handshakes that were completed.
        connections_established,
        /// Connections that are over.
        connections_closed,
        /// First packets answered with Retry, because too many handshakes were under way.
        retries_sent,
        /// Connection attempts whose address was validated by a token (Retry or NEW_TOKEN).
        connections_address_validated,
        /// Connection attempts refused because the limit of connections is reached.
        refused_connection_limit,
        /// Connection attempts refused while draining.
        refused_draining,
        /// Connection attempts refused because the listener has no certificate or is closing.
        refused_no_configuration,
        /// Connection attempts that failed in their first packet.
        failed_first_packets,
        /// Handshakes that failed later (TLS, transport, timeout).
        failed_handshakes,
        /// Connections whose local or remote address changed and stayed alive.
        connections_migrated,
        /// Connections that we closed because the peer broke HTTP/3.
        closed_http_errors,
        /// Connections ended because our own code panicked; a bug.
        panicked_connections,
        /// Endpoints rebuilt because they panicked; a bug in the library or here.
        panicked_endpoints,
        /// Times this core began anew because it panicked outside of both; a bug.
        panicked_cores,

        /// Tunnels opened (2xx sent or received).
        tunnels_opened,
        /// Requests for a tunnel refused, all reasons together.
        tunnels_refused,
        /// Tunnels closed, all reasons together.
        tunnels_closed,
        /// Requests that ended before they were decided (reset, connection lost).
        tunnels_cancelled,
        /// Requests rejected without processing (`H3_REQUEST_REJECTED`): sent after GOAWAY, or too many at once.
        requests_rejected,

        /// HTTP Datagrams taken from peers.
        datagrams_from_peer,
        /// UDP payloads handed to flows.
        datagrams_to_flows,
        /// Bytes in them.
        bytes_to_flows,
        /// UDP payloads that arrived in DATAGRAM capsules (part of `datagrams_to_flows`).
        datagrams_from_capsules,
        /// UDP payloads taken from flows.
        datagrams_from_flows,
        /// Bytes in them.
        bytes_from_flows,
        /// UDP payloads handed to QUIC as DATAGRAM frames.
        datagrams_to_peer,
        /// Of these: dropped inside the QUIC library when the path's MTU shrank.
        datagrams_to_peer_lost_mtu_shrank,
        /// Of these: still inside the QUIC library when the connection ended.
        datagrams_to_peer_lost_at_close,
        /// UDP payloads handed to streams as DATAGRAM capsules.
        datagrams_to_peer_in_capsules,

        /// Up: no Quarter Stream ID, or one that RFC 9297 §2.1 forbids; the connection is closed.
        up_dropped_bad_quarter_stream_id,
        /// Up: the stream is unknown, closed, or not open for datagrams yet and its room for early ones is used up.
        up_dropped_no_tunnel,
        /// Up: the tunnel's machine refused it (unknown context, too short, closed).
        up_dropped_by_tunnel,
        /// Up: held for a request that was refused or expired.
        up_dropped_early,
        /// Up: the flow has no socket any more.
        up_dropped_no_flow,
        /// Up: the connection ended in the turn in which it arrived.
        up_dropped_connection_lost,

        /// Down: the tunnel's queue was full; the oldest went.
        down_dropped_queue_full,
        /// Down: waited longer than the sojourn limit.
        down_dropped_stale,
        /// Down: does not fit the path or the peer's limit.
        down_dropped_too_large,
        /// Down: the tunnel is not open, or its send side is closed.
        down_dropped_closed,
        /// Down: still queued when the tunnel or its connection ended.
        down_dropped_at_close,
        /// Down: all queues together were full.
        down_dropped_core_full,

        /// Socket errors on flows: port or host unreachable.
        flow_errors_unreachable,
        /// Socket errors on flows: too large for the path towards the target.
        flow_errors_too_large,
        /// Socket errors on flows: buffers full.
        flow_errors_overloaded,
        /// Socket errors on flows: all others.
        flow_errors_other,

        /// Inputs that named a flow that is gone.
        stale_flow_inputs,
        /// Answers to questions nobody asks any more.
        stale_answers,
        /// Commands that named nothing.
        unknown_commands,
        /// Live tunnels rechecked against a newer snapshot.
        tunnels_rechecked,
        /// Turns that ended with work left because a budget was used up.
        turns_cut_short,
        /// Turns that were held back to let batches deepen.
        turns_coalesced,
    }
}
