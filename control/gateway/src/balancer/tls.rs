//! Certificates from a directory: `NAME.crt` and `NAME.key`, both PEM. The client's SNI chooses among them by the names that they
//! are for; `default.crt`, or else the first by name, is for clients that ask for nothing that is there.
//!
//! What is offered to be spoken inside (ALPN) is the listener's matter and not the directory's.
//!
//! INVARIANT: a directory that cannot be used changes nothing: what was read before stays in force.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::rustls::{
    ServerConfig,
    client::verify_server_name,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};
use weaved_api::balancer::ListenerProtocol;

use super::limits::{MAX_CERTIFICATES, MAX_PEM_BYTES};
use crate::bounded_file;

/// What is for clients without a better one.
const DEFAULT: &str = "default";

/// What tells that a file is another than before.
type Signature = (u64, i64, i64, u64);

/// A directory as it was last looked at.
#[derive(Debug)]
pub(super) struct Certificates {
    dir: PathBuf,
    seen: Option<BTreeMap<PathBuf, Signature>>,
    pub(super) problem: Option<String>,
}

#[derive(Debug)]
struct BySni {
    keys: Vec<Arc<CertifiedKey>>,
    default: usize,
}

impl Certificates {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), seen: None, problem: None }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is there, when it is other than at the last look and can be used.
    pub(super) fn look(&mut self) -> Option<ServerConfig> {
        let found = list(&self.dir);
        if self.seen.as_ref() == Some(&found) {
            return None;
        }
        let outcome = read(&found);
        self.seen = Some(found);
        match outcome {
            Ok(config) => {
                self.problem = None;
                Some(config)
            }
            Err(reason) => {
                tracing::warn!(dir = %self.dir.display(), reason, "certificates cannot be used");
                self.problem = Some(format!("{}: {reason}; what was read before stays", self.dir.display()));
                None
            }
        }
    }
}

/// What is offered inside. Of bytes we know nothing, and where we offer nothing a client may ask for what it likes.
pub(super) fn alpn(protocol: ListenerProtocol) -> Vec<Vec<u8>> {
    match protocol {
        ListenerProtocol::Http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        ListenerProtocol::Tcp => vec![],
    }
}

fn list(dir: &Path) -> BTreeMap<PathBuf, Signature> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let wanted =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "crt" || extension == "key"));
    let with_signature = wanted.filter_map(|path| {
        let metadata = fs::metadata(&path).ok()?;
        Some((path, (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ino())))
    });
    with_signature.take(2 * MAX_CERTIFICATES).collect()
}

fn read(found: &BTreeMap<PathBuf, Signature>) -> Result<ServerConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chains = found.keys().filter(|path| path.extension().is_some_and(|extension| extension == "crt"));
    let mut keys = Vec::new();
    let mut default = 0;
    for chain in chains {
        if chain.file_stem().is_some_and(|stem| stem == DEFAULT) {
            default = keys.len();
        }
        keys.push(Arc::new(read_pair(chain, &provider).map_err(|reason| format!("{}: {reason}", chain.display()))?));
    }
    if keys.is_empty() {
        return Err("there is no NAME.crt with a NAME.key".into());
    }
    let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = versions.map_err(|error| error.to_string())?.with_no_client_auth();
    Ok(builder.with_cert_resolver(Arc::new(BySni { keys, default })))
}

fn read_pair(chain: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read_file(chain)?)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let key_path = chain.with_extension("key");
    let key = read_file(&key_path)
        .and_then(|bytes| PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| error.to_string()))
        .map_err(|reason| format!("its key {}: {reason}", key_path.display()))?;
    let leaf = certificates.first().ok_or("it has no certificate")?;
    ParsedCertificate::try_from(leaf).map_err(|error| error.to_string())?;
    CertifiedKey::from_der(certificates, key, provider).map_err(|error| error.to_string())
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    bounded_file::read(path, MAX_PEM_BYTES).map_err(|error| error.to_string())
}

impl BySni {
    fn choose(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = ServerName::try_from(name).ok()?;
        self.keys.iter().find(|key| {
            let leaf = key.cert.first().and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
            leaf.is_some_and(|leaf| verify_server_name(&leaf, &name).is_ok())
        })
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chosen = hello.server_name().and_then(|name| self.choose(name));
        chosen.or_else(|| self.keys.get(self.default)).cloned()
    }
}
