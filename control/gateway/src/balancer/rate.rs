//! How many requests a second each client sends: a bucket that fills steadily and holds one second's worth.
//!
//! INVARIANT: at most [`MAX_RATED_CLIENTS`] buckets. A full one is forgotten first, which changes nothing for its client; where
//! none is full, a new client is let through uncounted.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use super::limits::MAX_RATED_CLIENTS;

/// Buckets by client.
#[derive(Debug, Default)]
pub(super) struct Rates {
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Requests that may come at once.
    level: f64,
    at: Instant,
}

impl Rates {
    /// Whether one more is within the rate.
    pub(super) fn admits(&self, client: IpAddr, per_second: u32, now: Instant) -> bool {
        let capacity = f64::from(per_second);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if !buckets.contains_key(&client) && buckets.len() >= MAX_RATED_CLIENTS {
            buckets.retain(|_, bucket| bucket.level_at(capacity, now) < capacity);
            if buckets.len() >= MAX_RATED_CLIENTS {
                return true;
            }
        }
        let bucket = buckets.entry(client).or_insert(Bucket { level: capacity, at: now });
        let level = bucket.level_at(capacity, now);
        let is_admitted = level >= 1.0;
        *bucket = Bucket { level: if is_admitted { level - 1.0 } else { level }, at: now };
        is_admitted
    }
}

impl Bucket {
    fn level_at(self, capacity: f64, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * capacity;
        (self.level + gained).min(capacity)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use super::*;

    #[test]
    fn a_client_may_send_a_burst_of_a_second_and_then_its_rate() {
        let (rates, client, start) = (Rates::default(), Ipv4Addr::LOCALHOST.into(), Instant::now());
        let admitted = (0..20).filter(|_| rates.admits(client, 10, start)).count();
        assert_eq!(admitted, 10);
        let later = start + Duration::from_millis(350);
        assert_eq!((0..20).filter(|_| rates.admits(client, 10, later)).count(), 3);
        assert!(rates.admits(Ipv4Addr::new(10, 0, 0, 1).into(), 10, later));
    }

    #[test]
    fn the_table_is_bounded_and_idle_clients_go_first() {
        let (rates, start) = (Rates::default(), Instant::now());
        for number in 0..=MAX_RATED_CLIENTS as u32 + 10 {
            assert!(rates.admits(Ipv4Addr::from(number).into(), 1, start));
        }
        assert_eq!(rates.buckets.lock().unwrap().len(), MAX_RATED_CLIENTS);
        let later = start + Duration::from_secs(5);
        assert!(rates.admits(Ipv4Addr::new(200, 0, 0, 1).into(), 1, later));
        assert_eq!(rates.buckets.lock().unwrap().len(), 1);
    }
}
