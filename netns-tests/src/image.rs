//! The one image of the lab's dockerds: busybox, iperf3, ping and the traffic tool, with the libraries that they need.
//!
//! There is no registry in the lab: the image is a directory that is packed and imported.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{command, requirements};

const TOOL_DEADLINE: Duration = Duration::from_mins(1);

/// Held by who makes the archive: dockerds may be started side by side.
static MAKING: Mutex<()> = Mutex::new(());

/// The image's archive in `dir`, built if it is not there yet.
#[track_caller]
pub(crate) fn archive(dir: &Path) -> PathBuf {
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let (root, archive) = (dir.join("image"), dir.join("image.tar"));
    if !archive.exists() {
        lay_out(&root).unwrap_or_else(|error| panic!("cannot lay out the image in {}: {error}", root.display()));
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".");
        command::run(tar, TOOL_DEADLINE).ok();
    }
    archive
}

fn lay_out(root: &Path) -> io::Result<()> {
    for dir in ["bin", "etc", "tmp", "www"] {
        fs::create_dir_all(root.join(dir))?;
    }
    let busybox = requirements::find_program("busybox").ok_or(io::ErrorKind::NotFound)?;
    let iperf3 = requirements::find_program("iperf3").ok_or(io::ErrorKind::NotFound)?;
    let ping = requirements::find_program("ping").ok_or(io::ErrorKind::NotFound)?;
    install(root, &busybox, "busybox")?;
    // Busybox has one that knows neither short intervals nor microseconds.
    install(root, &ping, "ping")?;
    install(root, &iperf3, "iperf3")?;
    install(root, &requirements::labtool_path(), "labtool")?;
    let mut list = Command::new(&busybox);
    list.arg("--list");
    for applet in
        command::run(list, TOOL_DEADLINE).ok().stdout.lines().filter(|name| !matches!(*name, "busybox" | "ping"))
    {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    Ok(())
}

/// Puts a program in `/bin` and the libraries that it is linked with where it looks for them.
fn install(root: &Path, program: &Path, name: &str) -> io::Result<()> {
    fs::copy(program, root.join("bin").join(name))?;
    for library in libraries_of(program) {
        let inside = root.join(library.strip_prefix("/").unwrap_or(&library));
        if let Some(parent) = inside.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(&library, inside)?;
    }
    Ok(())
}

/// What `ldd` finds: the last absolute path of each line. It fails for a static program, which has none.
fn libraries_of(program: &Path) -> BTreeSet<PathBuf> {
    let mut ldd = Command::new("ldd");
    ldd.arg(program);
    let output = command::run(ldd, TOOL_DEADLINE);
    let paths = output.stdout.lines().filter_map(|line| line.split_whitespace().rfind(|word| word.starts_with('/')));
    paths.map(PathBuf::from).collect()
}
