//! A small authoritative server that counts what it is asked.

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What a name has.
#[derive(Debug, Clone)]
pub enum Entry {
    Addresses(Vec<IpAddr>),
    Alias(String),
    Code(ResponseCode),
    /// Addresses under another owner name, as a forger would (D-7).
    Foreign(IpAddr),
    Silence,
}

/// The server; it stops when dropped.
pub struct Dns {
    pub address: SocketAddr,
    questions: Arc<Mutex<Vec<(String, RecordType)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Dns {
    pub fn start(entries: &[(&str, Entry)]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let entries: HashMap<String, Entry> =
            entries.iter().map(|(name, entry)| (format!("{name}."), entry.clone())).collect();
        let questions = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (log, stopped) = (Arc::clone(&questions), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
                if let Some(answer) = answer(&question, &entries, &log) {
                    drop(socket.send_to(&answer.to_vec().unwrap(), from));
                }
            }
        });
        Self { address, questions, stop, thread: Some(thread) }
    }

    /// Everything asked so far.
    pub fn questions(&self) -> Vec<(String, RecordType)> {
        self.questions.lock().unwrap().clone()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"", self.address).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn answer(
    message: &Message,
    entries: &HashMap<String, Entry>,
    log: &Mutex<Vec<(String, RecordType)>>,
) -> Option<Message> {
    let query = message.queries.first()?;
    let name = query.name().to_lowercase();
    log.lock().unwrap().push((name.to_string(), query.query_type()));
    let mut response = Message::response(message.metadata.id, message.metadata.op_code);
    response.metadata.authoritative = true;
    response.metadata.recursion_desired = message.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.add_query(query.clone());
    let addresses = |owner: &Name, addresses: &[IpAddr]| -> Vec<Record> {
        addresses
            .iter()
            .filter_map(|address| match (address, query.query_type()) {
                (IpAddr::V4(v4), RecordType::A) => Some(RData::A(A(*v4))),
                (IpAddr::V6(v6), RecordType::AAAA) => Some(RData::AAAA(AAAA(*v6))),
                _ => None,
            })
            .map(|data| Record::from_rdata(owner.clone(), 60, data))
            .collect()
    };
    match entries.get(&name.to_string()) {
        None => response.metadata.response_code = ResponseCode::NXDomain,
        Some(Entry::Silence) => return None,
        Some(Entry::Code(code)) => response.metadata.response_code = *code,
        Some(Entry::Addresses(found)) => {
            let found = addresses(query.name(), found);
            if found.is_empty() {
                // RFC 2308 section 3: with it, that there is nothing may be kept.
                let zone = Name::from_ascii("test.").unwrap();
                let soa = SOA::new(zone.clone(), zone.clone(), 1, 3600, 600, 86_400, 60);
                response.add_authority(Record::from_rdata(zone, 60, RData::SOA(soa)));
            }
            response.add_answers(found);
        }
        Some(Entry::Foreign(address)) => {
            let other = Name::from_ascii("other.test.").unwrap();
            response.add_answers(addresses(&other, &[*address]));
        }
        Some(Entry::Alias(other)) => {
            let other = Name::from_ascii(format!("{other}.")).unwrap();
            response.add_answer(Record::from_rdata(query.name().clone(), 60, RData::CNAME(CNAME(other.clone()))));
            if let Some(Entry::Addresses(found)) = entries.get(&other.to_string()) {
                response.add_answers(addresses(&other, found));
            }
        }
    }
    Some(response)
}
