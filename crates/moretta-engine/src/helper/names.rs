//! Names to addresses, on the helper thread's runtime.
//!
//! One lookup for each question that a worker asks: the hosts entries, then one A and one AAAA question, for exactly
//! the name given (no search list, no ndots). What is in flight is bounded, with a fair share for each source address.

use super::fair::FairQueue;
use super::order;
use crate::document;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use moretta_proto::admission::ResolveError;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;
use tokio::task::{AbortHandle, Id, JoinSet};

/// Questions held together, waiting and running.
const MAX_QUESTIONS: usize = 4096;
/// Questions held for one source.
const MAX_QUESTIONS_PER_SOURCE: usize = 256;
/// Lookups that run at once.
const MAX_RUNNING: usize = 256;
/// Answers kept, each for its time to live.
const CACHED_RESPONSES: u64 = 8_192;
/// An answer is asked for again after this time, whatever it says.
const MAX_CACHED: Duration = Duration::from_secs(3600);
/// What is said of a server that makes no sense or cannot be reached.
const SERVER_FAILED: ResolveError = ResolveError::Failed("SERVFAIL");
/// Addresses of one name that are looked at; the rest of a longer answer is left out.
const MAX_ADDRESSES: usize = 64;

/// Who asks; also the name of the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Asker {
    /// A core's question.
    Worker { worker: usize, query: u64 },
    /// A gateway that is being opened.
    Gateway(u64),
}

/// What a fair share belongs to: an IPv4 address, or a /64 of IPv6. None: this process itself.
pub(super) type Source = Option<IpAddr>;

pub(crate) type Answer = Result<Vec<IpAddr>, ResolveError>;

struct Question {
    asker: Asker,
    name: String,
}

/// The resolver and its questions.
pub(super) struct Names {
    resolver: Option<TokioResolver>,
    settings: document::Resolver,
    hosts: HashMap<String, Vec<IpAddr>>,
    queue: FairQueue<Source, Question>,
    tasks: JoinSet<Answer>,
    running: HashMap<Id, (Asker, Source)>,
    handles: HashMap<Asker, AbortHandle>,
}

impl Names {
    pub(super) fn new(settings: document::Resolver) -> Self {
        let mut names = Self {
            resolver: None,
            settings: document::Resolver::default(),
            hosts: HashMap::new(),
            queue: FairQueue::new(MAX_QUESTIONS, MAX_QUESTIONS_PER_SOURCE),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            handles: HashMap::new(),
        };
        names.build(settings);
        names
    }

    /// Takes new settings; the cache lives on if they did not change.
    pub(super) fn configure(&mut self, settings: document::Resolver) {
        if settings != self.settings {
            self.build(settings);
        }
    }

    fn build(&mut self, settings: document::Resolver) {
        self.hosts = system_hosts();
        let own = settings.hosts.iter().map(|(name, addresses)| (key(name), addresses.clone()));
        self.hosts.extend(own);
        self.resolver = resolver(&settings);
        self.settings = settings;
    }

    /// Asks for a name. An answer that is known at once is returned; any other comes from [`Self::next`].
    pub(super) fn ask(&mut self, asker: Asker, name: &str, source: Source) -> Option<Answer> {
        if let Some(addresses) = self.hosts.get(&key(name)) {
            return Some(Ok(ordered(addresses.clone())));
        }
        if !self.queue.push(source.map(share_of), Question { asker, name: name.to_owned() }) {
            return Some(Err(ResolveError::Overloaded));
        }
        self.start();
        None
    }

    /// Nobody waits for this answer any more.
    pub(super) fn cancel(&mut self, asker: Asker) {
        if let Some(handle) = self.handles.remove(&asker) {
            handle.abort();
        } else {
            self.queue.remove(|question| question.asker == asker);
        }
    }

    /// The next answer; pending while nothing runs.
    pub(super) async fn next(&mut self) -> (Asker, Answer) {
        loop {
            let Some(ended) = self.tasks.join_next_with_id().await else {
                return std::future::pending().await;
            };
            let (id, answer) = match ended {
                Ok((id, answer)) => (id, Some(answer)),
                Err(error) if error.is_cancelled() => (error.id(), None),
                Err(error) => (error.id(), Some(Err(SERVER_FAILED))),
            };
            let Some((asker, source)) = self.running.remove(&id) else { continue };
            self.handles.remove(&asker);
            self.queue.done(source);
            self.start();
            if let Some(answer) = answer {
                return (asker, answer);
            }
        }
    }

    /// Questions that wait or run.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    fn start(&mut self) {
        while self.running.len() < MAX_RUNNING {
            let Some((source, question)) = self.queue.pop() else { return };
            let resolver = self.resolver.clone();
            let timeout = Duration::from_secs_f64(self.settings.timeout_seconds);
            let handle = self.tasks.spawn(async move {
                // This system names no server.
                let Some(resolver) = resolver else { return Err(SERVER_FAILED) };
                let lookup = lookup(&resolver, &question.name);
                tokio::time::timeout(timeout, lookup).await.unwrap_or(Err(ResolveError::Timeout))
            });
            self.running.insert(handle.id(), (question.asker, source));
            self.handles.insert(question.asker, handle);
        }
    }
}

fn key(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// One household has a /64, so an address in it is no source of its own.
fn share_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
    }
}

/// The system's hosts file; a line that is no entry is skipped, as everywhere.
fn system_hosts() -> HashMap<String, Vec<IpAddr>> {
    std::fs::read_to_string("/etc/hosts").map(|text| parse_hosts(&text)).unwrap_or_default()
}

fn parse_hosts(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
        for name in words {
            let addresses = hosts.entry(key(name)).or_default();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    hosts
}

fn resolver(settings: &document::Resolver) -> Option<TokioResolver> {
    let servers: Vec<NameServerConfig> = if settings.nameservers.is_empty() {
        hickory_resolver::system_conf::read_system_conf().ok()?.0.name_servers().to_vec()
    } else {
        settings.nameservers.iter().map(name_server).collect()
    };
    if servers.is_empty() {
        return None;
    }
    let mut options = ResolverOpts::default();
    options.ndots = 0;
    // One question of each type: another server is asked only when one did not answer.
    options.attempts = 0;
    options.num_concurrent_reqs = 1;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    let servers_count = u32::try_from(servers.len()).unwrap_or(u32::MAX);
    options.timeout = Duration::from_secs_f64(settings.timeout_seconds) / servers_count;
    options.cache_size = CACHED_RESPONSES;
    options.positive_max_ttl = Some(MAX_CACHED);
    options.negative_max_ttl = Some(MAX_CACHED);
    // The hosts entries were looked at before; hickory reads the file only once per resolver.
    options.use_hosts_file = ResolveHosts::Never;
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build().ok()
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), true, connections)
}

async fn lookup(resolver: &TokioResolver, name: &str) -> Answer {
    let Ok(mut name) = Name::from_ascii(name) else { return Err(ResolveError::NoAddress) };
    name.set_fqdn(true);
    let (v4, v6) =
        tokio::join!(resolver.lookup(name.clone(), RecordType::A), resolver.lookup(name.clone(), RecordType::AAAA));
    combine(v4.map(|found| addresses(&found)), v6.map(|found| addresses(&found)))
}

#[allow(clippy::wildcard_enum_match_arm, reason = "every other record type is no address")]
fn addresses(found: &Lookup) -> Vec<IpAddr> {
    found
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(v4) => Some(IpAddr::V4(v4.0)),
            RData::AAAA(v6) => Some(IpAddr::V6(v6.0)),
            _ => None,
        })
        .take(MAX_ADDRESSES)
        .collect()
}

/// What both families together say: any address wins, else the failure that most deserves a retry.
fn combine(v4: Result<Vec<IpAddr>, NetError>, v6: Result<Vec<IpAddr>, NetError>) -> Answer {
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for family in [v6, v4] {
        match family {
            Ok(addresses) => found.extend(addresses),
            Err(error) => failures.push(failure(&error)),
        }
    }
    if !found.is_empty() {
        return Ok(ordered(found));
    }
    let rank = |failure: &ResolveError| match failure {
        ResolveError::Timeout => 4,
        ResolveError::Failed(_) => 3,
        ResolveError::Overloaded => 2,
        ResolveError::NxDomain => 1,
        ResolveError::NoAddress => 0,
    };
    Err(failures.into_iter().max_by_key(rank).unwrap_or(ResolveError::NoAddress))
}

#[allow(clippy::wildcard_enum_match_arm, reason = "what is no answer of the server is told as one failure")]
fn failure(error: &NetError) -> ResolveError {
    match error {
        NetError::Timeout => ResolveError::Timeout,
        NetError::Busy => ResolveError::Overloaded,
        NetError::Dns(DnsError::NoRecordsFound(found)) => match found.response_code {
            ResponseCode::NXDomain => ResolveError::NxDomain,
            ResponseCode::NoError => ResolveError::NoAddress,
            code => ResolveError::Failed(spelling(code)),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => ResolveError::Failed(spelling(*code)),
        // Unreachable servers and answers that make no sense: for the client the server failed.
        _ => SERVER_FAILED,
    }
}

/// A response code in the letters of RFC 1035 and its successors.
#[allow(clippy::wildcard_enum_match_arm, reason = "codes that a server should not send here are told as one failure")]
fn spelling(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::YXDomain => "YXDOMAIN",
        ResponseCode::YXRRSet => "YXRRSET",
        ResponseCode::NXRRSet => "NXRRSET",
        ResponseCode::NotAuth => "NOTAUTH",
        ResponseCode::NotZone => "NOTZONE",
        _ => "SERVFAIL",
    }
}

/// What a failure says of a name.
pub(super) fn sentence(error: ResolveError) -> String {
    match error {
        ResolveError::Timeout => "was not resolved in time: check the resolver".into(),
        ResolveError::NxDomain => "does not exist: check its spelling".into(),
        ResolveError::NoAddress => "has no address".into(),
        ResolveError::Failed(code) => format!("could not be resolved ({code}): check the resolver"),
        ResolveError::Overloaded => "could not be resolved: too many names wait".into(),
    }
}

/// The word that counts an answer in `stats`.
pub(super) fn label(answer: &Answer) -> &'static str {
    match answer {
        Ok(_) => "found",
        Err(ResolveError::Timeout) => "timeout",
        Err(ResolveError::NxDomain) => "nxdomain",
        Err(ResolveError::NoAddress) => "no_address",
        Err(ResolveError::Failed(_)) => "failed",
        Err(ResolveError::Overloaded) => "overloaded",
    }
}

/// RFC 6724 order, with the source addresses that this system's routes choose. Connecting a UDP socket sends nothing.
fn ordered(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    if addresses.len() < 2 {
        return addresses;
    }
    let mut candidates: Vec<order::Candidate> =
        addresses.into_iter().map(|address| (address, source_towards(address))).collect();
    order::sort(&mut candidates);
    candidates.into_iter().map(|(address, _)| address).collect()
}

fn source_towards(address: IpAddr) -> Option<IpAddr> {
    /// Any port will do: nothing is sent.
    const DISCARD: u16 = 9;
    let any: SocketAddr = match address {
        IpAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect((address, DISCARD)).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn code(code: ResponseCode) -> NetError {
        NetError::Dns(DnsError::ResponseCode(code))
    }

    #[test]
    fn one_family_that_answers_is_enough() {
        let answer = combine(Ok(vec![v4("192.0.2.1")]), Err(NetError::Timeout));
        assert_eq!(answer, Ok(vec![v4("192.0.2.1")]));
    }

    #[test]
    fn failures_are_told_apart_and_the_one_worth_a_retry_wins() {
        let servfail = ResolveError::Failed("SERVFAIL");
        let rows = [
            ("timeout over servfail", Err(NetError::Timeout), Err(code(ResponseCode::ServFail)), ResolveError::Timeout),
            ("servfail over nothing", Ok(vec![]), Err(code(ResponseCode::ServFail)), servfail),
            ("refused keeps its code", Err(code(ResponseCode::Refused)), Ok(vec![]), ResolveError::Failed("REFUSED")),
            ("nothing at all", Ok(vec![]), Ok(vec![]), ResolveError::NoAddress),
            ("busy", Err(NetError::Busy), Ok(vec![]), ResolveError::Overloaded),
            ("nonsense", Err(NetError::Message("?")), Ok(vec![]), servfail),
        ];
        for (id, a, aaaa, expected) in rows {
            assert_eq!(combine(a, aaaa), Err(expected), "{id}");
        }
    }

    #[test]
    fn the_hosts_file_is_read_as_everywhere() {
        let hosts = parse_hosts("127.0.0.1 localhost # comment\n::1 LocalHost. ip6\n#1.2.3.4 no\nnonsense x\n");
        assert_eq!(hosts["localhost"], [v4("127.0.0.1"), v4("::1")]);
        assert_eq!(hosts["ip6"], [v4("::1")]);
        assert_eq!(hosts.len(), 2);
    }

    #[test]
    fn a_share_belongs_to_a_subnet_in_ipv6() {
        assert_eq!(share_of(v4("2001:db8::1")), share_of(v4("2001:db8::2")));
        assert_ne!(share_of(v4("2001:db8:0:1::1")), share_of(v4("2001:db8::1")));
    }
}
