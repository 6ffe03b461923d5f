//! Commands: checked against the numbers in use, promised their events, and routed.

use crate::border::lock;
use crate::document::{
    CloseForward, CloseGateway, Command, Drain, FinishTunnel, Forward, OpenGateway, OpenUdp, Ping, RebindGateway,
    ResetTunnel,
};
use crate::error::EngineError;
use crate::frontend::ForwardRequest;
use crate::helper::{HELPER_INBOX, HelperMessage};
use crate::instance::{FRONT_END_TOKEN, GatewayPlace, Instance, TunnelPlace};
use crate::mailbox::Message;
use crate::queue::TunnelQueue;
use crate::tls::Trust;
use moretta_wire::host::Host;
use moretta_wire::template::UriTemplate;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest time that a command may ask for.
const MAX_SECONDS: f64 = 86_400.0;
/// Peers of one forward, at most: each is a tunnel.
const MAX_FORWARD_PEERS: usize = 65_536;

/// A gateway whose name has yet to be resolved.
#[derive(Debug)]
pub(crate) struct GatewayPlan {
    pub(crate) gateway: u64,
    pub(crate) template: UriTemplate,
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) server_name: String,
    pub(crate) trust: Trust,
    pub(crate) bind: Option<SocketAddr>,
    pub(crate) deadline: Instant,
}

/// Takes one command.
pub(crate) fn submit(instance: &Instance, command: Command) -> Result<(), EngineError> {
    match command {
        Command::OpenGateway(command) => open_gateway(instance, command),
        Command::OpenUdp(command) => open_udp(instance, command),
        Command::Forward(command) => forward(instance, command),
        Command::CloseForward(CloseForward { forward, .. }) => close_forward(instance, forward),
        Command::FinishTunnel(FinishTunnel { tunnel, .. }) => {
            to_tunnel(instance, tunnel, Message::FinishTunnel(tunnel))
        }
        Command::ResetTunnel(ResetTunnel { tunnel, .. }) => to_tunnel(instance, tunnel, Message::ResetTunnel(tunnel)),
        Command::CloseGateway(CloseGateway { gateway, .. }) => close_gateway(instance, gateway),
        Command::RebindGateway(RebindGateway { gateway, bind, .. }) => {
            lock(&instance.registry).post(&instance.workers, gateway, Message::Rebind { gateway, bind })
        }
        Command::Drain(Drain { deadline_seconds, .. }) => drain(instance, deadline_seconds),
        Command::Ping(Ping { gateway, ping, .. }) => promised(instance, 1, || {
            lock(&instance.registry).post(&instance.workers, gateway, Message::Ping { gateway, ping })
        }),
    }
}

fn open_gateway(instance: &Instance, command: OpenGateway) -> Result<(), EngineError> {
    let timeout = seconds("timeout_seconds", command.timeout_seconds)?;
    let template = UriTemplate::parse_template_or_origin(&command.origin_or_template)
        .map_err(|error| EngineError::document("origin_or_template", error.to_string()))?;
    let Some(origin) = template.origin() else {
        return Err(EngineError::document("origin_or_template", "names no host: begin with https://"));
    };
    let (host, port) = (origin.host.clone(), origin.port);
    let trust = Trust::parse(command.ca_pem, command.pin_sha256.as_deref())?;
    let server_name = command.server_name.unwrap_or_else(|| host.to_string());
    if rustls::pki_types::ServerName::try_from(server_name.as_str()).is_err() {
        return Err(EngineError::document("server_name", format!("{server_name:?} is neither a name nor an address")));
    }
    let gateway = command.gateway;
    let plan = GatewayPlan {
        gateway,
        template,
        host,
        port,
        server_name,
        trust,
        bind: command.bind,
        deadline: Instant::now() + timeout,
    };
    promised(instance, 2, || {
        let mut registry = lock(&instance.registry);
        let worker = registry.choose_worker(instance.workers.len());
        match registry.gateways.entry(gateway) {
            Entry::Occupied(_) => Err(EngineError::Taken { what: "gateway", id: gateway }),
            Entry::Vacant(place) => {
                to_helper(instance, HelperMessage::OpenGateway(Box::new(plan)))?;
                place.insert(GatewayPlace::Opening { worker, waiting: Vec::new() });
                Ok(())
            }
        }
    })
}

fn open_udp(instance: &Instance, command: OpenUdp) -> Result<(), EngineError> {
    let OpenUdp { gateway, tunnel, host, port, timeout_seconds, .. } = command;
    let timeout = seconds("timeout_seconds", timeout_seconds)?;
    if tunnel >= FRONT_END_TOKEN {
        return Err(EngineError::document("tunnel", "must be below 2^63"));
    }
    check_target(&host, port)?;
    promised(instance, 2, || {
        let mut registry = lock(&instance.registry);
        if registry.tunnels.contains_key(&tunnel) {
            return Err(EngineError::Taken { what: "tunnel", id: tunnel });
        }
        let worker = match registry.gateways.get(&gateway) {
            Some(GatewayPlace::Opening { worker, .. } | GatewayPlace::Worker(worker)) => *worker,
            None => return Err(EngineError::Unknown { what: "gateway", id: gateway }),
        };
        let Some(mailbox) = instance.workers.get(worker) else { return Err(EngineError::Closed) };
        let notify = Arc::clone(mailbox) as Arc<dyn crate::queue::Notify>;
        let queue = Arc::new(TunnelQueue::new(tunnel, notify, Arc::clone(&instance.border)));
        let message =
            Message::OpenUdp { gateway, queue: Arc::clone(&queue), host, port, deadline: Instant::now() + timeout };
        registry.post(&instance.workers, gateway, message)?;
        registry.tunnels.insert(tunnel, TunnelPlace { gateway, queue });
        Ok(())
    })
}

fn forward(instance: &Instance, command: Forward) -> Result<(), EngineError> {
    let Forward { forward, gateway, bind, host, port, max_peers, idle_timeout_seconds, .. } = command;
    let idle_timeout = seconds("idle_timeout_seconds", idle_timeout_seconds)?;
    check_target(&host, port)?;
    if !(1..=MAX_FORWARD_PEERS).contains(&max_peers) {
        return Err(EngineError::document("max_peers", format!("must be 1 to {MAX_FORWARD_PEERS}")));
    }
    promised(instance, 2, || {
        let mut registry = lock(&instance.registry);
        if registry.forwards.contains_key(&forward) {
            return Err(EngineError::Taken { what: "forward", id: forward });
        }
        let request = ForwardRequest { forward, gateway, bind, host, port, max_peers, idle_timeout };
        registry.post(&instance.workers, gateway, Message::Forward(request))?;
        registry.forwards.insert(forward, gateway);
        Ok(())
    })
}

fn close_forward(instance: &Instance, forward: u64) -> Result<(), EngineError> {
    let mut registry = lock(&instance.registry);
    let Some(gateway) = registry.forwards.get(&forward).copied() else {
        return Err(EngineError::Unknown { what: "forward", id: forward });
    };
    registry.post(&instance.workers, gateway, Message::CloseForward(forward))
}

fn to_tunnel(instance: &Instance, tunnel: u64, message: Message) -> Result<(), EngineError> {
    let mut registry = lock(&instance.registry);
    let Some(gateway) = registry.tunnels.get(&tunnel).map(|place| place.gateway) else {
        return Err(EngineError::Unknown { what: "tunnel", id: tunnel });
    };
    match registry.post(&instance.workers, gateway, message) {
        // The gateway ended first and took the tunnel along: nothing is left to end.
        Err(EngineError::Unknown { .. }) => Ok(()),
        result => result,
    }
}

fn close_gateway(instance: &Instance, gateway: u64) -> Result<(), EngineError> {
    let mut registry = lock(&instance.registry);
    if let Some(GatewayPlace::Opening { .. }) = registry.gateways.get(&gateway) {
        return to_helper(instance, HelperMessage::AbandonGateway(gateway));
    }
    registry.post(&instance.workers, gateway, Message::CloseGateway(gateway))
}

fn drain(instance: &Instance, deadline_seconds: f64) -> Result<(), EngineError> {
    if !(0.0..=MAX_SECONDS).contains(&deadline_seconds) {
        return Err(EngineError::document("deadline_seconds", format!("must be 0 to {MAX_SECONDS}")));
    }
    let deadline = Instant::now() + Duration::from_secs_f64(deadline_seconds);
    promised(instance, 1, || {
        if !instance.start_drain() {
            return Err(EngineError::document("command", "a drain is under way: wait for drained, or close"));
        }
        for worker in &instance.workers {
            worker.post(Message::Drain { deadline });
        }
        Ok(())
    })
}

/// Reserves room for the events that a command will cause, and gives it back if the command is refused.
fn promised(
    instance: &Instance,
    events: usize,
    act: impl FnOnce() -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    if !instance.border.promise(events) {
        return Err(EngineError::Busy { limit: crate::border::PROMISE_LIMIT });
    }
    act().inspect_err(|_| instance.border.release(events))
}

pub(crate) fn to_helper(instance: &Instance, message: HelperMessage) -> Result<(), EngineError> {
    instance.helper.try_send(message).map_err(|error| match error {
        tokio::sync::mpsc::error::TrySendError::Full(_) => EngineError::Busy { limit: HELPER_INBOX },
        tokio::sync::mpsc::error::TrySendError::Closed(_) => EngineError::Closed,
    })
}

fn seconds(path: &str, seconds: f64) -> Result<Duration, EngineError> {
    if (0.001..=MAX_SECONDS).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(EngineError::document(path, format!("must be 0.001 to {MAX_SECONDS}")))
    }
}

/// What can be seen here; the gateway judges the rest.
fn check_target(host: &str, port: u16) -> Result<(), EngineError> {
    if host.is_empty() {
        return Err(EngineError::document("host", "must not be empty"));
    }
    if port == 0 {
        return Err(EngineError::document("port", "must be 1 to 65535"));
    }
    Ok(())
}
