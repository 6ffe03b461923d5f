//! Payloads that know where they belong: a datagram in the wrong tunnel, cut, or with a flipped bit is found at once.

use std::fmt;

use bytes::Bytes;

use crate::random::Random;

/// Tunnel, direction and serial number, each written into the payload; the rest is filler derived from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Whose datagram it is.
    pub tunnel: u64,
    /// Its place in the order of sending.
    pub serial: u64,
}

/// Bytes that a stamp needs at least.
pub const MIN_BYTES: usize = 24;

/// A payload that is not what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Corrupt {
    /// Shorter than a stamp.
    TooShort(usize),
    /// The stamp's own length is not that of the payload.
    Length {
        /// As it was sent.
        stamped: u64,
        /// As it arrived.
        actual: usize,
    },
    /// A byte of the filler is wrong.
    Filler(Stamp),
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Corrupt {}

impl Stamp {
    /// A payload of `bytes`, at least [`MIN_BYTES`].
    pub fn payload(self, bytes: usize) -> Bytes {
        let bytes = bytes.max(MIN_BYTES);
        let mut payload = Vec::with_capacity(bytes + 8);
        for number in [self.tunnel, self.serial, bytes as u64] {
            payload.extend(number.to_be_bytes());
        }
        let mut filler = self.filler();
        while payload.len() < bytes {
            payload.extend(filler.bits().to_be_bytes());
        }
        payload.truncate(bytes);
        payload.into()
    }

    /// Reads a payload back and checks every byte of it.
    ///
    /// # Errors
    /// [`Corrupt`] if it is not exactly what [`Stamp::payload`] made.
    pub fn read(payload: &[u8]) -> Result<Self, Corrupt> {
        let too_short = Corrupt::TooShort(payload.len());
        let (tunnel, rest) = payload.split_first_chunk().ok_or(too_short)?;
        let (serial, rest) = rest.split_first_chunk().ok_or(too_short)?;
        let (stamped, _) = rest.split_first_chunk().ok_or(too_short)?;
        let stamped = u64::from_be_bytes(*stamped);
        if stamped != payload.len() as u64 {
            return Err(Corrupt::Length { stamped, actual: payload.len() });
        }
        let stamp = Self { tunnel: u64::from_be_bytes(*tunnel), serial: u64::from_be_bytes(*serial) };
        if stamp.payload(payload.len()) == payload { Ok(stamp) } else { Err(Corrupt::Filler(stamp)) }
    }

    fn filler(self) -> Random {
        Random::new(self.tunnel ^ self.serial.rotate_left(32), "filler")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_and_every_flipped_bit_is_found() {
        let stamp = Stamp { tunnel: 3, serial: 70_000 };
        let payload = stamp.payload(61);
        assert_eq!(Stamp::read(&payload), Ok(stamp));
        for bit in 0..payload.len() * 8 {
            let mut copy = payload.to_vec();
            copy[bit / 8] ^= 1 << (bit % 8);
            // A flip in the stamp itself is found because the filler belongs to the true one.
            assert!(Stamp::read(&copy).is_err(), "bit {bit}");
        }
        assert!(Stamp::read(&payload[..60]).is_err());
        assert!(Stamp::read(&payload[..20]).is_err());
    }
}
