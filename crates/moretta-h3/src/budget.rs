//! A budget that refills with time.

use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_secs(60);

/// Allows `capacity` units at once and as many per minute in the long run.
#[derive(Debug)]
pub(crate) struct Budget {
    capacity: u64,
    used: u64,
    since: Option<Instant>,
}

impl Budget {
    pub(crate) const fn new(capacity: u64) -> Self {
        Self { capacity, used: 0, since: None }
    }

    /// Takes `amount`; `false` once more is used than allowed. Without a time nothing comes back.
    pub(crate) fn take(&mut self, now: Option<Instant>, amount: u64) -> bool {
        if let Some(now) = now {
            let since = *self.since.get_or_insert(now);
            let elapsed = now.saturating_duration_since(since).as_millis();
            let due = elapsed.saturating_mul(u128::from(self.capacity)) / PERIOD.as_millis();
            let refill = u64::try_from(due).unwrap_or(u64::MAX);
            if refill >= self.used {
                (self.used, self.since) = (0, Some(now));
            } else if refill > 0 {
                self.used -= refill;
                // Only the time that bought the refill is gone, so frequent calls lose nothing.
                let spent = u128::from(refill) * PERIOD.as_millis() / u128::from(self.capacity);
                self.since = since.checked_add(Duration::from_millis(spent as u64));
            }
        }
        self.used = self.used.saturating_add(amount);
        self.used <= self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_allows_its_capacity_and_refills_over_a_minute() {
        let start = crate::test_clock();
        let mut budget = Budget::new(60);
        assert!(budget.take(Some(start), 60));
        assert!(!budget.take(Some(start), 1));
        assert!(!budget.take(Some(start + Duration::from_secs(1)), 1), "one came back, one was owed already");
        assert!(budget.take(Some(start + Duration::from_secs(11)), 9));
        assert!(budget.take(Some(start + Duration::from_secs(600)), 60));
        assert!(!budget.take(Some(start + Duration::from_secs(600)), 1));
    }
}
