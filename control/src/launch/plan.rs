//! What will be, before anything is: settings, identity, secret and targets out of what was asked and what is known.

use ipnet::Ipv4Net;
use weaved_api::ClusterSecret;
use zeroize::Zeroizing;

use crate::{
    failure::Failure,
    lifecycle::STATE_FILES,
    node::{Persisted, Start},
    state::{
        Identity, SecretRecord, Settings, StateError, Store, Wishes, file::Record, kv_file::KvFile, password,
        settings::Requested, token,
    },
    targets::{MAX_TARGETS, Target},
};

/// What the operator asks for.
#[derive(Default)]
pub struct Ask {
    /// Settings.
    pub requested: Requested,
    /// Peers to connect to.
    pub peers: Vec<Target>,
    /// How the cluster's secret comes here.
    pub secret: SecretSource,
    /// This host's name when none is given.
    pub host_name: String,
}

/// Where the cluster's secret comes from.
#[derive(Default)]
pub enum SecretSource {
    /// It is known already, or a new one is made.
    #[default]
    Own,
    /// From another host's `weaved token`.
    Token(Zeroizing<String>),
    /// From the operator's password.
    Password(Zeroizing<String>),
}

/// Whether this host was launched before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Never; everything is made now.
    First,
    /// It was; everything is remembered.
    Again,
}

/// All that a node needs.
pub struct Plan {
    /// How it is set up.
    pub settings: Settings,
    /// Who it is.
    pub identity: Identity,
    /// What it shares with its cluster.
    pub secret: SecretRecord,
    /// What it connects to.
    pub wishes: Wishes,
    /// Whether all this is new.
    pub freshness: Freshness,
    /// What differs from the last launch, for the operator.
    pub changes: Vec<String>,
}

impl Plan {
    /// Reads what is known, and decides. Writes nothing.
    pub fn make(store: &Store, ask: &Ask) -> Result<Self, Failure> {
        let remembered = store.load::<Settings>().map_err(Failure::refused)?;
        let identity = Identity::load(store).map_err(Failure::refused)?;
        let secret = store.load::<SecretRecord>().map_err(Failure::refused)?;
        // Control would refuse it too, but only after `launch` has waited for it.
        if store.load::<Persisted>().map_err(Failure::refused)?.is_some() {
            KvFile::require(store.dir()).map_err(Failure::refused)?;
        }
        let mut wishes = store.load::<Wishes>().map_err(Failure::refused)?.unwrap_or_default();
        for peer in ask.peers.iter().map(ToString::to_string) {
            if !wishes.targets.contains(&peer) {
                wishes.targets.push(peer);
            }
        }
        if wishes.targets.len() > MAX_TARGETS {
            return Err(Failure::refused(format!("more than {MAX_TARGETS} peers; name a few, the others are found")));
        }
        let given = ask.secret.derive()?;
        match remembered {
            Some(settings) => {
                let identity = identity.ok_or_else(|| missing::<Identity>(store))?;
                let secret = secret.ok_or_else(|| missing::<SecretRecord>(store))?;
                Self::again(settings, identity, secret, wishes, given, ask)
            }
            // The settings are written last: without them, an earlier launch was interrupted, and nobody knows us.
            None => Self::first(identity.unwrap_or_else(Identity::generate), wishes, given, ask),
        }
    }

    fn again(
        settings: Settings,
        identity: Identity,
        secret: SecretRecord,
        wishes: Wishes,
        given: Option<ClusterSecret>,
        ask: &Ask,
    ) -> Result<Self, Failure> {
        if given.is_some_and(|given| given != secret.secret) {
            return Err(Failure::refused(
                "this host belongs to a cluster with another secret; to join a different one, leave that one first \
                 with `weaved reset`",
            ));
        }
        let older = settings.clone();
        let settings = settings.again(&ask.requested).map_err(Failure::refused)?;
        let changes = settings.changes_since(&older);
        Ok(Self { settings, identity, secret, wishes, freshness: Freshness::Again, changes })
    }

    fn first(identity: Identity, wishes: Wishes, given: Option<ClusterSecret>, ask: &Ask) -> Result<Self, Failure> {
        let start = match (&ask.secret, ask.peers.first()) {
            (SecretSource::Own, Some(peer)) => {
                return Err(Failure::refused(format!(
                    "joining {peer} needs the secret of its cluster: run `weaved token > t` there, bring t here, then \
                     `weaved launch --token-file t {peer}`"
                )));
            }
            (SecretSource::Own | SecretSource::Password(_), None) => Start::Founder,
            (SecretSource::Token(_), _) => Start::Joiner,
            // With a password all hosts may be launched at once, each with the names of the others.
            (SecretSource::Password(_), Some(_)) => Start::Either,
        };
        let secret = given.map_or_else(new_secret, Ok)?;
        let settings = Settings::first(&ask.requested, &ask.host_name, start).map_err(Failure::refused)?;
        let secret = SecretRecord { secret };
        Ok(Self { settings, identity, secret, wishes, freshness: Freshness::First, changes: Vec::new() })
    }

    /// Writes everything. The settings come last: they say that the rest is there.
    pub fn save(&self, store: &Store) -> Result<(), Failure> {
        let saved = store
            .create()
            .and_then(|()| store.save(&self.identity))
            .and_then(|()| store.save(&self.secret))
            .and_then(|()| store.save(&self.wishes))
            .and_then(|()| store.save(&self.settings));
        saved.map_err(|error| {
            self.undo(store);
            Failure::refused(error)
        })
    }

    /// Removes what a first launch has written. What was there before stays.
    pub fn undo(&self, store: &Store) {
        if self.freshness == Freshness::First
            && let Err(error) = store.remove_all(&STATE_FILES)
        {
            tracing::warn!(%error, "the state of the failed launch was not removed");
        }
    }

    /// The range of all containers of the cluster.
    pub fn range(&self) -> Ipv4Net {
        self.settings.range
    }
}

impl SecretSource {
    fn derive(&self) -> Result<Option<ClusterSecret>, Failure> {
        match self {
            Self::Own => Ok(None),
            Self::Token(token) => token::decode(token).map(Some).map_err(Failure::refused),
            Self::Password(password) => password::derive(password).map(Some).map_err(Failure::refused),
        }
    }
}

fn new_secret() -> Result<ClusterSecret, Failure> {
    let mut secret = ClusterSecret([0; 32]);
    getrandom::fill(&mut secret.0).map_err(|error| Failure::refused(format!("no random numbers: {error}")))?;
    Ok(secret)
}

fn missing<R: Record>(store: &Store) -> Failure {
    let reason = "it is missing, though this host was launched before".into();
    Failure::refused(StateError::Damaged { path: store.path::<R>(), reason })
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use super::*;
    use crate::node::{Node, NodeConfig};

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("state"));
        (dir, store)
    }

    fn ask() -> Ask {
        Ask { host_name: "alpha".into(), ..Ask::default() }
    }

    fn token(octet: u8) -> SecretSource {
        SecretSource::Token(token::encode(&ClusterSecret([octet; 32])))
    }

    fn refusal(store: &Store, ask: &Ask) -> String {
        Plan::make(store, ask).err().unwrap().to_string()
    }

    #[test]
    fn the_first_host_founds_and_remembers_itself() {
        let (_dir, store) = store();
        let first = Plan::make(&store, &ask()).unwrap();
        assert_eq!((first.settings.start, first.freshness), (Start::Founder, Freshness::First));
        assert!(!store.path::<Settings>().parent().unwrap().exists(), "a plan writes nothing");
        first.save(&store).unwrap();
        let again = Plan::make(&store, &ask()).unwrap();
        assert_eq!(again.freshness, Freshness::Again);
        assert_eq!((again.identity.id, again.secret.secret), (first.identity.id, first.secret.secret));
    }

    #[test]
    fn a_token_makes_a_joiner_also_without_a_peer() {
        let (_dir, store) = store();
        let plan = Plan::make(&store, &Ask { secret: token(7), ..ask() }).unwrap();
        assert_eq!((plan.settings.start, plan.secret.secret), (Start::Joiner, ClusterSecret([7; 32])));
    }

    #[test]
    fn a_password_founds_alone_and_joins_with_a_peer() {
        let (_dir, store) = store();
        let password = || SecretSource::Password(Zeroizing::new("correct horse battery".into()));
        assert_eq!(Plan::make(&store, &Ask { secret: password(), ..ask() }).unwrap().settings.start, Start::Founder);
        let peers = vec!["192.0.2.1".parse().unwrap()];
        let joining = Plan::make(&store, &Ask { secret: password(), peers, ..ask() }).unwrap();
        assert_eq!((joining.settings.start, joining.wishes.targets.len()), (Start::Either, 1));
    }

    #[test]
    fn a_peer_without_a_secret_is_refused_with_the_way_to_get_one() {
        let (_dir, store) = store();
        let error = refusal(&store, &Ask { peers: vec!["b".parse().unwrap()], ..ask() });
        assert!(error.contains("weaved launch --token-file t b"), "{error}");
    }

    #[test]
    fn another_secret_is_refused_once_the_host_has_one() {
        let (_dir, store) = store();
        Plan::make(&store, &Ask { secret: token(7), ..ask() }).unwrap().save(&store).unwrap();
        assert!(Plan::make(&store, &Ask { secret: token(7), ..ask() }).is_ok());
        assert!(refusal(&store, &Ask { secret: token(8), ..ask() }).contains("weaved reset"));
    }

    #[test]
    fn a_missing_part_of_the_state_is_named_and_not_made_up() {
        let (_dir, store) = store();
        Plan::make(&store, &ask()).unwrap().save(&store).unwrap();
        store.remove::<Identity>().unwrap();
        let error = refusal(&store, &ask());
        assert!(error.contains("identity.json") && error.contains("missing"), "{error}");
        assert!(!store.path::<Identity>().exists());
    }

    #[test]
    fn a_damaged_memory_of_the_cluster_is_told_before_anything_starts() {
        let (_dir, store) = store();
        Plan::make(&store, &ask()).unwrap().save(&store).unwrap();
        std::fs::write(store.path::<Persisted>(), "half of").unwrap();
        assert!(refusal(&store, &ask()).contains("node.json"));
    }

    #[test]
    fn a_store_of_keys_that_is_gone_is_told_before_anything_starts_and_not_made_anew() {
        let (dir, store) = store();
        let plan = Plan::make(&store, &ask()).unwrap();
        plan.save(&store).unwrap();
        assert!(Plan::make(&store, &ask()).is_ok(), "control has not run yet");
        let config = NodeConfig {
            id: plan.identity.id,
            name: "alpha".into(),
            range: plan.settings.range,
            slice_prefix: plan.settings.slice_prefix,
            zone: plan.settings.zone.clone(),
            guarded: vec![],
            listen_port: 6783,
            start: Start::Founder,
            local_endpoints: vec![],
        };
        let mut node = Node::new(config, None, [1; 32], Instant::now(), SystemTime::now()).unwrap();
        store.save(&node.poll_persist().unwrap()).unwrap();
        let error = refusal(&store, &ask());
        assert!(error.contains("kv.redb") && error.contains("is missing"), "{error}");
        assert!(!dir.path().join("state/kv.redb").exists());
    }

    #[test]
    fn a_failed_first_launch_leaves_nothing_and_a_failed_relaunch_leaves_everything() {
        let (_dir, store) = store();
        let first = Plan::make(&store, &ask()).unwrap();
        first.save(&store).unwrap();
        Plan::make(&store, &ask()).unwrap().undo(&store);
        assert!(store.path::<Settings>().exists());
        first.undo(&store);
        assert!(!store.path::<Settings>().parent().unwrap().exists());
    }
}
