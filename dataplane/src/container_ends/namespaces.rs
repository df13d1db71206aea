//! Network namespaces of this machine: finding those that this one knows by number, and working inside.
//!
//! The kernel tells the number of a namespace that one has a file of, and not the other way. So all that have a process
//! in them, or a name, are asked for their numbers. That takes about a millisecond and is done when a container is new.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::PathBuf,
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::netlink::{Netlink, pair::NamespaceId};

/// Where namespaces without a process are kept by name: `ip netns`, Docker.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// Namespaces that were found.
pub(super) type Found = BTreeMap<NamespaceId, File>;

/// Looks for these namespaces. Those that are not found have ended, or hide.
pub(super) fn find(netlink: &mut Netlink, wanted: &BTreeSet<NamespaceId>) -> Found {
    let (mut seen, mut found) = (BTreeSet::new(), Found::new());
    for path in candidates() {
        if found.len() == wanted.len() {
            break;
        }
        // Processes end while we look.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        if let Ok(Some(id)) = netlink.namespace_id(file.as_fd())
            && wanted.contains(&id)
        {
            found.insert(id, file);
        }
    }
    found
}

/// Does something in a namespace, on a thread of its own that ends there.
pub(super) fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let enter = || move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
    thread::scope(|scope| {
        let thread = scope.spawn(|| enter().map(|()| work()));
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(io::Error::from)
    })
}

fn candidates() -> impl Iterator<Item = PathBuf> {
    let processes = entries("/proc").filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.bytes().all(|byte| byte.is_ascii_digit())
    });
    // The containers of the tests of this package are threads.
    let threads = if cfg!(test) { Some("/proc/self/task") } else { None };
    let inhabited = processes.chain(threads.into_iter().flat_map(entries));
    inhabited.map(|process| process.join("ns/net")).chain(NAMED.into_iter().flat_map(entries))
}

fn entries(directory: &str) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}
