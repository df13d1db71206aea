//! One kind of room, shared among clients so that none of them, nor all that are not this host, can take it from the others.
//!
//! A client is an address, of IPv6 the /64 that it is in. Each may take a part of the room, and what is not this host may take
//! three quarters of it together: the host's own agents go on beside any number of containers. This host is who comes from
//! loopback or from the very address that it speaks to; it has no share, since it is one for all that run on it. Whoever
//! reaches the bridge has an address of its own, containers of Docker's other networks too: Docker's NAT is for what leaves.
//!
//! INVARIANT: a part that is held is counted, and its room is free when it is dropped.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Whose room it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Something on this host.
    Host,
    /// Somebody with this address.
    Other(IpAddr),
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// All of it is taken.
    Room,
    /// This client has its share.
    Share,
}

/// How much there is, and how much of it one client may take that is not this host.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// All of it.
    pub all: usize,
    /// A client's.
    pub share: usize,
}

/// Room of one kind.
#[derive(Debug)]
pub struct Shares {
    limit: Limit,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    others: usize,
    /// Of each of the others that has some.
    by: BTreeMap<IpAddr, usize>,
}

/// What a client has of it.
#[derive(Debug)]
pub struct Part {
    shares: Arc<Shares>,
    client: Client,
    count: usize,
}

impl Client {
    /// Who comes from `remote` to `local`.
    pub fn of(remote: IpAddr, local: IpAddr) -> Self {
        let (remote, local) = (remote.to_canonical(), local.to_canonical());
        match remote {
            _ if remote.is_loopback() || remote == local => Self::Host,
            IpAddr::V4(_) => Self::Other(remote),
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                Self::Other(Ipv6Addr::from(network).into())
            }
        }
    }
}

impl Limit {
    /// So much, and this part of it for one client.
    pub const fn of(all: usize, parts: usize) -> Self {
        Self { all, share: if all < parts { 1 } else { all / parts } }
    }
}

impl Shares {
    /// So much, and nobody has any of it.
    pub fn new(limit: Limit) -> Arc<Self> {
        Arc::new(Self { limit, taken: Mutex::default() })
    }

    /// Nothing yet.
    pub fn none(self: &Arc<Self>, client: Client) -> Part {
        Part { shares: Arc::clone(self), client, count: 0 }
    }

    /// So much for this client.
    pub fn take(self: &Arc<Self>, client: Client, count: usize) -> Result<Part, Lack> {
        let mut part = self.none(client);
        part.grow(count)?;
        Ok(part)
    }

    /// What all have together.
    pub fn count(&self) -> usize {
        self.taken().all
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What nobody has.
    pub fn free(&self) -> usize {
        self.limit.all - self.taken().all
    }
}

impl Part {
    /// How much it is.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes more of it, or none.
    pub fn grow(&mut self, more: usize) -> Result<(), Lack> {
        let Limit { all, share } = self.shares.limit;
        let mut taken = self.shares.taken();
        if taken.all + more > all {
            return Err(Lack::Room);
        }
        if let Client::Other(address) = self.client {
            let has = taken.by.get(&address).copied().unwrap_or(0);
            if has + more > share {
                return Err(Lack::Share);
            }
            if taken.others + more > all.div_ceil(4) * 3 {
                return Err(Lack::Room);
            }
            if more > 0 {
                taken.by.insert(address, has + more);
            }
            taken.others += more;
        }
        taken.all += more;
        self.count += more;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        taken.all -= self.count;
        if let Client::Other(address) = self.client {
            taken.others -= self.count;
            if let Some(has) = taken.by.get_mut(&address) {
                *has -= self.count;
                if *has == 0 {
                    taken.by.remove(&address);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(last: u8) -> Client {
        Client::Other(IpAddr::from([10, 32, 0, last]))
    }

    /// What the others have is what each of them has.
    fn free(shares: &Shares) -> usize {
        let taken = shares.taken();
        assert_eq!(taken.others, taken.by.values().sum::<usize>());
        drop(taken);
        shares.free()
    }

    #[test]
    fn one_client_has_its_share_and_leaves_the_rest() {
        let shares = Shares::new(Limit { all: 100, share: 25 });
        let mut first = shares.take(other(1), 20).unwrap();
        assert_eq!(first.grow(6), Err(Lack::Share));
        first.grow(5).unwrap();
        assert_eq!(shares.take(other(1), 1).unwrap_err(), Lack::Share);
        let second = shares.take(other(2), 25).unwrap();
        assert_eq!((first.count(), second.count(), free(&shares)), (25, 25, 50));
        drop(first);
        assert_eq!(free(&shares), 75);
        drop(shares.take(other(1), 25).unwrap());
        drop(second);
        assert_eq!((free(&shares), shares.taken().by.len()), (100, 0), "nothing is kept of those that have nothing");
    }

    #[test]
    fn all_others_together_leave_a_quarter_to_this_host_which_may_have_all() {
        let shares = Shares::new(Limit { all: 100, share: 25 });
        let taken: Vec<_> = (0..3).map(|last| shares.take(other(last), 25).unwrap()).collect();
        assert_eq!(shares.take(other(3), 1).unwrap_err(), Lack::Room);
        let host = shares.take(Client::Host, 25).unwrap();
        assert_eq!(shares.take(Client::Host, 1).unwrap_err(), Lack::Room);
        drop(taken);
        let more = shares.take(Client::Host, 75).unwrap();
        assert_eq!(free(&shares), 0);
        drop((host, more));
        assert_eq!(free(&shares), 100);
    }

    #[test]
    fn this_host_is_loopback_and_its_own_address_and_a_network_of_ipv6_is_one_client() {
        let of = |remote: &str, local: &str| Client::of(remote.parse().unwrap(), local.parse().unwrap());
        for (remote, local) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.8.8.8", "127.0.0.1"),
            ("10.32.0.1", "10.32.0.1"),
            ("::1", "::1"),
            ("::ffff:10.32.0.1", "10.32.0.1"),
        ] {
            assert_eq!(of(remote, local), Client::Host, "{remote}");
        }
        assert_eq!(of("10.32.0.5", "10.32.0.1"), other(5));
        assert_eq!(of("::ffff:10.32.0.5", "::ffff:10.32.0.1"), other(5));
        assert_eq!(of("fd00::1:2:3:4", "fd00::1"), of("fd00::5:6:7:8", "fd00::1"));
        assert_ne!(of("fd00:0:0:1::2", "fd00::1"), of("fd00::2", "fd00::1"));
    }
}
