//! How many files a process of ours may have open: a connection is one.

use rustix::process::{Resource, getrlimit, setrlimit};

/// What all parts of a node can use between them; more is not asked for.
const WANTED: u64 = 65_536;
/// For everything that is no connection of a client: sockets, state files, Docker, probes.
const SET_ASIDE: u64 = 1024;

/// Raises the soft limit of this process, and of those that it starts, as far as it may be raised and is of use.
///
/// Distributions start services with 1,024 and let them ask for more.
pub fn raise() {
    let limits = getrlimit(Resource::Nofile);
    let Some(current) = limits.current.filter(|current| *current < WANTED) else { return };
    let wanted = limits.maximum.map_or(WANTED, |maximum| maximum.min(WANTED)).max(current);
    let raised = rustix::process::Rlimit { current: Some(wanted), maximum: limits.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "no more than {current} files may be open");
    }
}

/// How many of `wanted` connections this process has room for. At least one.
pub fn room_for(wanted: usize) -> usize {
    room(getrlimit(Resource::Nofile).current, wanted)
}

fn room(limit: Option<u64>, wanted: usize) -> usize {
    let Some(limit) = limit else { return wanted };
    let set_aside = SET_ASIDE.min(limit / 2);
    usize::try_from(limit - set_aside).unwrap_or(wanted).clamp(1, wanted.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_never_take_all_files() {
        for (limit, expected) in
            [(None, 12_000), (Some(65_536), 12_000), (Some(4096), 3072), (Some(1024), 512), (Some(0), 1)]
        {
            assert_eq!(room(limit, 12_000), expected, "{limit:?}");
        }
    }

    #[test]
    fn the_limit_only_rises() {
        let before = getrlimit(Resource::Nofile);
        raise();
        let after = getrlimit(Resource::Nofile);
        assert!(after.current.unwrap_or(u64::MAX) >= before.current.unwrap_or(u64::MAX).min(WANTED));
        assert_eq!(after.maximum, before.maximum);
    }
}
