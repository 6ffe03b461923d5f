//! Bytes as a source of choices. It never runs dry: what is missing is zero, so every input means something and a
//! mutation at one place changes little elsewhere.

pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// A number below 256 in one byte, any other behind 0xff, in eight.
    pub(crate) fn number(&mut self) -> u64 {
        match self.byte() {
            0xff => self.bytes(8).iter().fold(0, |value, byte| value << 8 | u64::from(*byte)),
            small => u64::from(small),
        }
    }

    /// A length of at most 65 535: one byte below 0xff, any other behind it in two.
    pub(crate) fn length(&mut self) -> usize {
        match self.byte() {
            0xff => usize::from(self.byte()) << 8 | usize::from(self.byte()),
            small => usize::from(small),
        }
    }

    /// A length and as many bytes, or as many as there are.
    pub(crate) fn sized(&mut self) -> &'a [u8] {
        let length = self.length();
        self.bytes(length)
    }

    pub(crate) fn bytes(&mut self, wanted: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(wanted.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// What [`Input`] reads, written.
#[derive(Clone, Default)]
pub(crate) struct Script(pub(crate) Vec<u8>);

impl Script {
    pub(crate) fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    pub(crate) fn number(mut self, value: u64) -> Self {
        match u8::try_from(value) {
            Ok(small) if small < 0xff => self.0.push(small),
            _ => {
                self.0.push(0xff);
                self.0.extend_from_slice(&value.to_be_bytes());
            }
        }
        self
    }

    pub(crate) fn sized(mut self, bytes: &[u8]) -> Self {
        match u8::try_from(bytes.len()) {
            Ok(small) if small < 0xff => self.0.push(small),
            _ => {
                self.0.push(0xff);
                self.0.extend_from_slice(&u16::try_from(bytes.len()).unwrap().to_be_bytes());
            }
        }
        self.0.extend_from_slice(bytes);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_script_writes_is_read() {
        let long = vec![7; 300];
        let script = Script::default().byte(3).number(254).number(255).number(u64::MAX).sized(&long).sized(b"ab");
        let mut input = Input::new(&script.0);
        assert_eq!((input.byte(), input.number(), input.number(), input.number()), (3, 254, 255, u64::MAX));
        assert_eq!((input.sized(), input.sized()), (&long[..], &b"ab"[..]));
        assert!(input.is_empty());
        assert_eq!((input.byte(), input.number(), input.sized()), (0, 0, &[][..]), "dry, and still answering");
    }
}
