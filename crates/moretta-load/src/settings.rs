//! What is to be measured: the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::Failure;

/// Which way the payloads go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// From the client to the target.
    Up,
    /// From the target to the client.
    Down,
}

impl Mode {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// The command line; flags are those of `benches/driver` where there are such.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) proxy: SocketAddr,
    /// Certificates to trust, in PEM.
    pub(crate) ca: PathBuf,
    /// The name in the gateway's certificate.
    pub(crate) server_name: String,
    pub(crate) mode: Mode,
    /// Bytes of each payload.
    pub(crate) size: usize,
    /// Datagrams per second, all tunnels together; 0: as many as pass.
    pub(crate) rate: u64,
    pub(crate) duration: Duration,
    /// The same before anything is counted: congestion windows and MTU settle.
    pub(crate) warm_up: Duration,
    pub(crate) tunnels: usize,
    pub(crate) connections: usize,
    /// Processes whose CPU time is the gateway's.
    pub(crate) gateway_pids: Vec<u32>,
    /// Down without a rate: datagrams on their way at one time.
    pub(crate) window: u64,
    /// A closed loop that hears nothing for so long takes what is missing for lost.
    pub(crate) write_off: Duration,
    pub(crate) label: String,
    /// Port of the target; 0: any. Some gateways know their target beforehand.
    pub(crate) target_port: u16,
}

const USAGE: &str = "--proxy ADDRESS --ca FILE [--mode up|down] [--size BYTES] [--rate PER_SECOND] [--dur SECONDS] \
     [--warm SECONDS] [--tunnels N] [--conns N] [--pid PID,…] [--window N] [--server-name NAME] \
     [--write-off SECONDS] [--target-port PORT] [--label TEXT]";

/// Type and run of a payload.
pub(crate) const MIN_SIZE: usize = 8;

impl Settings {
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut settings = Self {
            proxy: SocketAddr::from(([127, 0, 0, 1], 4433)),
            ca: PathBuf::new(),
            server_name: "localhost".to_owned(),
            mode: Mode::Up,
            size: 1200,
            rate: 0,
            duration: Duration::from_secs(4),
            warm_up: Duration::from_millis(300),
            tunnels: 1,
            connections: 1,
            gateway_pids: Vec::new(),
            window: 1500,
            write_off: Duration::from_millis(5),
            label: String::new(),
            target_port: 0,
        };
        let mut arguments = arguments.peekable();
        while let Some(flag) = arguments.next() {
            let value = arguments.next().ok_or_else(|| Failure(format!("{flag} needs a value; usage: {USAGE}")))?;
            settings.set(&flag, &value)?;
        }
        settings.check()
    }

    fn set(&mut self, flag: &str, value: &str) -> Result<(), Failure> {
        fn read<T: std::str::FromStr>(flag: &str, value: &str) -> Result<T, Failure> {
            value.parse().map_err(|_| Failure(format!("{flag} {value} is not understood; usage: {USAGE}")))
        }
        let seconds = || {
            let seconds = read(flag, value)?;
            Duration::try_from_secs_f64(seconds).map_err(|error| Failure(format!("{flag} {value}: {error}")))
        };
        match flag {
            "--proxy" => self.proxy = read(flag, value)?,
            "--ca" => self.ca = value.into(),
            "--server-name" => value.clone_into(&mut self.server_name),
            "--mode" if value == "up" => self.mode = Mode::Up,
            "--mode" if value == "down" => self.mode = Mode::Down,
            "--size" => self.size = read(flag, value)?,
            "--rate" => self.rate = read(flag, value)?,
            "--dur" => self.duration = seconds()?,
            "--warm" => self.warm_up = seconds()?,
            "--tunnels" => self.tunnels = read(flag, value)?,
            "--conns" => self.connections = read(flag, value)?,
            "--pid" => {
                self.gateway_pids = value
                    .split(',')
                    .filter(|pid| !pid.is_empty())
                    .map(|pid| read(flag, pid))
                    .collect::<Result<_, _>>()?;
            }
            "--window" => self.window = read(flag, value)?,
            "--target-port" => self.target_port = read(flag, value)?,
            "--write-off" => self.write_off = seconds()?,
            "--label" => value.clone_into(&mut self.label),
            _ => return Err(Failure(format!("{flag} {value} is not understood; usage: {USAGE}"))),
        }
        Ok(())
    }

    fn check(self) -> Result<Self, Failure> {
        if self.ca.as_os_str().is_empty() {
            return Err(Failure(format!("--ca names no file; usage: {USAGE}")));
        }
        if !(MIN_SIZE..=65_507).contains(&self.size) {
            return Err(Failure(format!("--size is {MIN_SIZE} to 65507 bytes, not {}", self.size)));
        }
        if self.tunnels == 0 || self.connections == 0 || self.connections > self.tunnels {
            return Err(Failure("--tunnels is at least --conns, and both are at least 1".to_owned()));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Settings, Failure> {
        Settings::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn flags_of_the_driver_are_understood() {
        let settings = parse(
            "--ca x.pem --proxy [::1]:443 --mode down --size 64 --rate 9 --dur 0.5 --conns 2 --tunnels 3 --pid 7,8",
        )
        .unwrap();
        assert_eq!((settings.mode, settings.size, settings.rate), (Mode::Down, 64, 9));
        assert_eq!((settings.connections, settings.tunnels), (2, 3));
        assert_eq!(settings.duration, Duration::from_millis(500));
        assert_eq!(settings.gateway_pids, [7, 8]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_usage() {
        for line in [
            "",
            "--ca",
            "--ca x --size 7",
            "--ca x --mode echo",
            "--ca x --tunnels 0",
            "--ca x --conns 2",
            "--nonsense 1",
        ] {
            let Failure(words) = parse(line).unwrap_err();
            assert!(words.contains("--"), "{line}: {words}");
        }
    }
}
