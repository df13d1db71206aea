//! How many requests a second each client sends: a bucket that fills steadily and holds one second's worth.
//!
//! A client is an address, of IPv6 the /64 that it is in: whoever has one address there has all of them.
//!
//! A bucket that nobody has taken from for a second is full, and forgetting it changes nothing. So buckets are kept in two tables: those of
//! this period, and those of the one before, which are dropped together when the next begins.
//!
//! INVARIANT: at most [`MAX_RATED_CLIENTS`] buckets; where there are so many, a new client is let through uncounted. No request has to look
//! through them.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::limits::MAX_RATED_CLIENTS;

/// In which each bucket fills, whatever the rate.
const PERIOD: Duration = Duration::from_secs(1);

/// Buckets by client.
#[derive(Debug, Default)]
pub(super) struct Rates {
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    /// When the period began; None before the first.
    since: Option<Instant>,
    current: HashMap<IpAddr, Bucket>,
    previous: HashMap<IpAddr, Bucket>,
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
        let (client, capacity) = (key(client), f64::from(per_second));
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.turn(now);
        let Some(bucket) = buckets.find(client, capacity, now) else { return true };
        let level = bucket.level_at(capacity, now);
        let is_admitted = level >= 1.0;
        *bucket = Bucket { level: if is_admitted { level - 1.0 } else { level }, at: now };
        is_admitted
    }
}

impl Buckets {
    /// Begins a new period when it is time.
    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(*self.since.get_or_insert(now));
        if age < PERIOD {
            return;
        }
        self.since = Some(now);
        std::mem::swap(&mut self.current, &mut self.previous);
        self.current.clear();
        if age >= 2 * PERIOD {
            self.previous.clear();
        }
    }

    /// The client's, which is one of the current period from now on; None when there is no place for a new one.
    fn find(&mut self, client: IpAddr, capacity: f64, now: Instant) -> Option<&mut Bucket> {
        if !self.current.contains_key(&client) {
            let known = self.previous.remove(&client);
            let is_full = self.current.len() + self.previous.len() >= MAX_RATED_CLIENTS;
            let bucket = known.or((!is_full).then_some(Bucket { level: capacity, at: now }))?;
            self.current.insert(client, bucket);
        }
        self.current.get_mut(&client)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.current.len() + self.previous.len()
    }
}

impl Bucket {
    fn level_at(self, capacity: f64, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * capacity;
        (self.level + gained).min(capacity)
    }
}

/// Who shares a bucket.
fn key(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

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
    fn a_new_period_forgets_nobody_who_has_just_sent() {
        let (rates, client, start) = (Rates::default(), Ipv4Addr::LOCALHOST.into(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert!(rates.admits(Ipv4Addr::new(10, 0, 0, 1).into(), 10, start));
        for (millis, expected) in [(900, 10), (1010, 1), (1950, 9), (2050, 1), (2150, 1)] {
            assert_eq!((0..20).filter(|_| rates.admits(client, 10, at(millis))).count(), expected, "{millis}");
        }
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_share_a_rate_and_those_of_ipv4_do_not() {
        let (rates, now) = (Rates::default(), Instant::now());
        let admits = |client: &str| rates.admits(client.parse().unwrap(), 2, now);
        assert!(admits("2001:db8::1") && admits("2001:db8::2"));
        assert!(!admits("2001:db8::ffff:3"));
        assert!(admits("2001:db8:0:1::1"));
        assert!(admits("::ffff:192.0.2.1") && admits("192.0.2.1") && !admits("192.0.2.1"));
        assert!(admits("::ffff:192.0.2.2"));
    }

    #[test]
    fn the_table_is_bounded_and_idle_clients_go_first() {
        let (rates, start) = (Rates::default(), Instant::now());
        for number in 0..=MAX_RATED_CLIENTS as u32 + 10 {
            assert!(rates.admits(Ipv4Addr::from(number).into(), 1, start));
        }
        assert_eq!(rates.buckets.lock().unwrap().len(), MAX_RATED_CLIENTS);
        // One that is known stays counted.
        for (millis, expected) in [(0, false), (990, false), (1500, true), (1500, false)] {
            let at = start + Duration::from_millis(millis);
            assert_eq!(rates.admits(Ipv4Addr::from(7).into(), 1, at), expected, "{millis}");
        }
        let later = start + Duration::from_secs(5);
        assert!(rates.admits(Ipv4Addr::new(200, 0, 0, 1).into(), 1, later));
        assert_eq!(rates.buckets.lock().unwrap().len(), 1);
    }
}
