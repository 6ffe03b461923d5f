//! CUBIC, and a window that opens for good when a connection is over.
//!
//! The library (0.11.19, quinn issue 2785) holds CONNECTION_CLOSE back while the congestion window is full, and once a
//! connection is closed nothing empties it: the peer would learn the end by its idle timeout. Packets with nothing but
//! CONNECTION_CLOSE are not subject to congestion control (RFC 9002 §2, §7).

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig};

/// Makes the controllers of one core.
#[derive(Debug, Default)]
pub(crate) struct CongestionControl(Arc<CubicConfig>);

impl ControllerFactory for CongestionControl {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = Cubic::new(Arc::clone(&self.0), now, current_mtu);
        Box::new(Openable { inner, open: Arc::default() })
    }
}

#[derive(Debug, Clone)]
struct Openable {
    inner: Cubic,
    /// Shared with its clones, since the library lends the controller in use only to be read.
    open: Arc<AtomicBool>,
}

/// Lets CONNECTION_CLOSE pass: nothing else is sent by a connection that is over.
pub(crate) fn open_window(connection: &quinn_proto::Connection) {
    if let Ok(controller) = connection.congestion_state().clone_box().into_any().downcast::<Openable>() {
        controller.open.store(true, Ordering::Relaxed);
    }
}

impl Controller for Openable {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest_packet_num_acked: Option<u64>) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.open.load(Ordering::Relaxed) { u64::MAX } else { self.inner.window() }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
