//! The resolvers of the host, from `/etc/resolv.conf` (resolv.conf(5)), read again when the file has changed.
//!
//! INVARIANT: never ourselves: a question that we pass to us would come back for ever.

use std::{
    fs::{self, File},
    io::Read,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::limits::{MAX_RESOLV_CONF_BYTES, MAX_UPSTREAMS};

/// Not looked at more often than this.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const DNS_PORT: u16 = 53;

/// Which file it was, so that a change is seen without reading: device, inode, size, time of change.
type Stamp = (u64, u64, u64, i64, i64);

/// The file, and what it said when it was last read.
#[derive(Debug)]
pub(crate) struct ResolvConf {
    path: PathBuf,
    stamp: Option<Stamp>,
    looked: Option<Instant>,
    named: Vec<IpAddr>,
}

impl ResolvConf {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, stamp: None, looked: None, named: Vec::new() }
    }

    /// Whom to ask, in order; `own` are addresses where we listen.
    pub(crate) fn upstreams(&mut self, own: &[IpAddr], now: Instant) -> Vec<SocketAddr> {
        if self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK_INTERVAL) {
            self.looked = Some(now);
            self.look();
        }
        let others = self.named.iter().filter(|address| !own.contains(address));
        others.take(MAX_UPSTREAMS).map(|address| SocketAddr::new(*address, DNS_PORT)).collect()
    }

    fn look(&mut self) {
        let stamp = fs::metadata(&self.path).ok();
        let stamp = stamp.map(|file| (file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()));
        if stamp == self.stamp {
            return;
        }
        self.stamp = stamp;
        let mut bytes = Vec::new();
        // A file that is gone names nobody; libc would ask this host itself, which is us or nobody.
        let read = File::open(&self.path).and_then(|file| file.take(MAX_RESOLV_CONF_BYTES).read_to_end(&mut bytes));
        if let Err(error) = read {
            tracing::debug!(%error, path = %self.path.display(), "no resolvers");
        }
        self.named = parse(&String::from_utf8_lossy(&bytes));
    }
}

fn parse(text: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // A zone id, as in `fe80::1%eth0`, needs an interface: not supported, like an address that is none.
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_everything_else_is_passed_over() {
        let text = "# nameserver 192.0.2.9\nsearch example.com\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # x\n\
                    nameserver fe80::1%eth0\nnameserver none\nnameserver 192.0.2.1\nnameservers 192.0.2.7";
        assert_eq!(parse(text), ["192.0.2.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn a_changed_file_is_read_again_and_we_are_never_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, "nameserver 10.32.0.1\nnameserver 192.0.2.1\n").unwrap();
        let own = ["10.32.0.1".parse().unwrap()];
        let (mut conf, now) = (ResolvConf::new(path.clone()), Instant::now());
        assert_eq!(conf.upstreams(&own, now), ["192.0.2.1:53".parse().unwrap()]);
        fs::write(&path, "nameserver 192.0.2.22\n").unwrap();
        assert_eq!(conf.upstreams(&own, now), ["192.0.2.1:53".parse().unwrap()]);
        assert_eq!(conf.upstreams(&own, now + LOOK_INTERVAL), ["192.0.2.22:53".parse().unwrap()]);
        fs::remove_file(&path).unwrap();
        assert!(conf.upstreams(&own, now + LOOK_INTERVAL * 2).is_empty());
    }
}
