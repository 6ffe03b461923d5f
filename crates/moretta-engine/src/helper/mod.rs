//! The one thread beside the workers, with a real tokio runtime: names, snapshots, gateways being opened, the host's own
//! addresses, and the memory of snapshots that nobody uses any more.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this module is the helper thread, where tokio is at home"
)]

mod fair;
mod names;
mod order;

use crate::border::lock;
use crate::clients::{self, Place};
use crate::control::{GatewayPlan, Snapshots};
use crate::document::{self, Event};
use crate::instance::{GatewayPlace, Instance};
use crate::mailbox::{GatewayRequest, Message};
use moretta_core::{CoreSnapshot, LinkId};
use moretta_io::OwnAddresses;
use moretta_wire::host::Host;
use names::{Asker, Names};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

pub(crate) use names::Answer;

/// Messages that may wait for the helper.
pub(crate) const HELPER_INBOX: usize = 16_384;
/// How often changed addresses, and snapshots that went out of use, are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// What the helper is told.
#[derive(Debug)]
pub(crate) enum HelperMessage {
    Snapshot(Box<document::Snapshot>),
    OpenGateway(Box<GatewayPlan>),
    /// The gateway is closed before it was opened.
    AbandonGateway(u64),
    Resolve {
        worker: usize,
        query: u64,
        name: String,
        source: IpAddr,
    },
    CancelResolve {
        worker: usize,
        query: u64,
    },
    /// The last connection of a removed listener has ended at this worker.
    ListenerIdle {
        worker: usize,
        link: LinkId,
    },
    /// This worker's thread has ended by itself.
    WorkerLost(usize),
    /// How many questions are held, and answers by kind.
    Stats(std::sync::mpsc::SyncSender<NameStats>),
    Close,
}

/// What the helper counted about names.
#[derive(Debug, Clone, Default)]
pub(crate) struct NameStats {
    pub(crate) questions: u64,
    pub(crate) answers: BTreeMap<&'static str, u64>,
}

/// Runs until [`HelperMessage::Close`].
pub(crate) fn run(
    instance: Arc<Instance>,
    snapshots: Snapshots,
    own_addresses: OwnAddresses,
    inbox: mpsc::Receiver<HelperMessage>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    // Without a runtime there is no resolver: commands that need the helper are refused as its inbox closes.
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        let names = Names::new(document::Resolver::default());
        let helper =
            Helper { instance, snapshots, names, plans: HashMap::new(), retired: Vec::new(), answers: BTreeMap::new() };
        helper.serve(own_addresses, inbox).await;
    });
    // Blocking tasks of the resolver's (none today) must not hold up a close.
    runtime.shutdown_background();
}

struct Helper {
    instance: Arc<Instance>,
    snapshots: Snapshots,
    names: Names,
    /// Gateways whose names are being resolved.
    plans: HashMap<u64, Box<GatewayPlan>>,
    /// Snapshots that workers may still use. The last reference is dropped here.
    retired: Vec<Arc<CoreSnapshot>>,
    answers: BTreeMap<&'static str, u64>,
}

impl Helper {
    async fn serve(mut self, mut own_addresses: OwnAddresses, mut inbox: mpsc::Receiver<HelperMessage>) {
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = inbox.recv() => match message {
                    None | Some(HelperMessage::Close) => return,
                    Some(message) => self.handle(message),
                },
                (asker, answer) = self.names.next() => self.answered(asker, answer),
                _ = sweep.tick() => self.sweep(&mut own_addresses),
            }
        }
    }

    /// Looked at rather than waited for: tokio's waiting on a descriptor of another's is `unsafe`, and an address that is
    /// a second old as a target is judged like any other of its prefix until then.
    fn sweep(&mut self, own_addresses: &mut OwnAddresses) {
        if own_addresses.drain() {
            let before = self.snapshots.addresses_changed(&self.instance, own_addresses);
            self.retired.push(before);
        }
        self.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    fn handle(&mut self, message: HelperMessage) {
        match message {
            HelperMessage::Snapshot(snapshot) => self.apply(&snapshot),
            HelperMessage::OpenGateway(plan) => self.open_gateway(plan),
            HelperMessage::AbandonGateway(gateway) => {
                self.names.cancel(Asker::Gateway(gateway));
                if self.plans.remove(&gateway).is_some() {
                    self.gateway_failed(gateway, "closed", "the gateway was closed before it was opened");
                } else {
                    // Its worker has it by now.
                    let mut registry = lock(&self.instance.registry);
                    drop(registry.post(&self.instance.workers, gateway, Message::CloseGateway(gateway)));
                }
            }
            HelperMessage::Resolve { worker, query, name, source } => {
                let asker = Asker::Worker { worker, query };
                if let Some(answer) = self.names.ask(asker, &name, Some(source)) {
                    self.answered(asker, answer);
                }
            }
            HelperMessage::CancelResolve { worker, query } => self.names.cancel(Asker::Worker { worker, query }),
            HelperMessage::ListenerIdle { worker, link } => {
                self.snapshots.listener_idle(&self.instance, worker, link);
            }
            HelperMessage::WorkerLost(worker) => self.snapshots.worker_lost(worker),
            HelperMessage::Stats(answer) => {
                let stats = NameStats { questions: self.names.len() as u64, answers: self.answers.clone() };
                // Whoever asked may have given up waiting.
                drop(answer.try_send(stats));
            }
            HelperMessage::Close => {}
        }
    }

    fn apply(&mut self, snapshot: &document::Snapshot) {
        let generation = snapshot.generation;
        match self.snapshots.apply(&self.instance, snapshot) {
            Ok(before) => {
                self.names.configure(snapshot.resolver.clone());
                self.retired.push(before);
            }
            Err(error) => {
                self.instance.border.push(Event::SnapshotRefused(document::SnapshotRefused {
                    generation,
                    path: error.path().to_owned(),
                    error: error.to_string(),
                    code: error.code().to_owned(),
                }));
                // There will be no `listening`.
                self.instance.border.release(snapshot.listeners.len());
            }
        }
    }

    fn open_gateway(&mut self, plan: Box<GatewayPlan>) {
        let gateway = plan.gateway;
        let answer = match &plan.host {
            Host::Ipv4(v4) => Some(Ok(vec![IpAddr::V4(*v4)])),
            Host::Ipv6(v6) => Some(Ok(vec![IpAddr::V6(*v6)])),
            Host::Name(name) => self.names.ask(Asker::Gateway(gateway), name.as_str(), None),
        };
        self.plans.insert(gateway, plan);
        if let Some(answer) = answer {
            self.answered(Asker::Gateway(gateway), answer);
        }
    }

    fn answered(&mut self, asker: Asker, answer: Answer) {
        *self.answers.entry(names::label(&answer)).or_insert(0) += 1;
        match asker {
            Asker::Worker { worker, query } => {
                if let Some(mailbox) = self.instance.workers.get(worker) {
                    mailbox.post(Message::Resolved { query, result: answer });
                }
            }
            Asker::Gateway(gateway) => {
                let Some(plan) = self.plans.remove(&gateway) else { return };
                match answer {
                    Ok(addresses) => self.connect(*plan, &addresses),
                    Err(error) => {
                        let words = format!("the gateway's name {} {}", plan.host, names::sentence(error));
                        self.gateway_failed(gateway, names::label(&Err(error)), &words);
                    }
                }
            }
        }
    }

    /// Hands a gateway to its worker, with what was asked of it meanwhile.
    fn connect(&mut self, plan: GatewayPlan, addresses: &[IpAddr]) {
        let place = Place { server_name: plan.server_name.clone(), port: plan.port, trust: plan.trust };
        let tls = match clients::configuration(place) {
            Ok(tls) => tls,
            Err(error) => {
                let words = error.to_string();
                return self.gateway_failed(plan.gateway, "trust_unusable", &words);
            }
        };
        let remotes = addresses.iter().map(|address| SocketAddr::new(*address, plan.port)).collect();
        let request = GatewayRequest {
            gateway: plan.gateway,
            remotes,
            bind: plan.bind,
            server_name: plan.server_name,
            tls,
            template: plan.template,
            deadline: plan.deadline,
        };
        let mut registry = lock(&self.instance.registry);
        let Some(place) = registry.gateways.get_mut(&plan.gateway) else { return };
        let GatewayPlace::Opening { worker, waiting } = place else { return };
        let (worker, waiting) = (*worker, std::mem::take(waiting));
        *place = GatewayPlace::Worker(worker);
        if let Some(mailbox) = self.instance.workers.get(worker) {
            mailbox.post(Message::OpenGateway(Box::new(request)));
            for message in waiting {
                mailbox.post(message);
            }
        }
    }

    /// A gateway ends before a worker had it; what waited for it ends with it.
    fn gateway_failed(&mut self, gateway: u64, reason: &str, error: &str) {
        let Some(place) = lock(&self.instance.registry).gateways.remove(&gateway) else { return };
        if let GatewayPlace::Opening { waiting, .. } = place {
            for message in waiting {
                crate::records::refuse_waiting(&self.instance, message, reason, error);
            }
        }
        self.instance.border.push(Event::GatewayFailed(document::GatewayFailed {
            gateway,
            reason: reason.to_owned(),
            error: error.to_owned(),
        }));
        // There will be no `gateway_closed`.
        self.instance.border.release(1);
    }
}
