//! The functions and filters of templates; docs/templates.md describes them for users.
//!
//! Each looks its answer up among the facts and notes that it was asked for. Where the answer is not there yet it stands in
//! with something empty: the rendering goes on, finds what else is needed, and is thrown away.
//!
//! INVARIANT: what is rendered without a note of something missing holds no stand-in.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use minijinja::{Environment, Error, ErrorKind, Value, value::Kwargs};
use serde::Serialize;

use super::{
    dependency::{Dependency, HealthFilter},
    fact::{Fact, Pair},
    limits,
};

/// All that is known, by what was asked.
pub type Facts = BTreeMap<Dependency, Arc<Fact>>;

/// What one rendering sees and what it has asked for.
#[derive(Debug)]
pub struct Lookups {
    facts: Facts,
    asked: Mutex<Asked>,
}

/// What a rendering has asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Everything, to be watched.
    pub used: BTreeSet<Dependency>,
    /// What is not known yet.
    pub missing: BTreeSet<Dependency>,
}

impl Lookups {
    /// A rendering that sees these facts.
    pub fn new(facts: Facts) -> Arc<Self> {
        Arc::new(Self { facts, asked: Mutex::default() })
    }

    /// What it has asked for so far.
    pub fn asked(&self) -> Asked {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn find(&self, dependency: &Dependency) -> Result<Option<&Fact>, Error> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.used.len() >= limits::MAX_DEPENDENCIES && !asked.used.contains(dependency) {
            return Err(refusal(format!("more than {} different things are asked for", limits::MAX_DEPENDENCIES)));
        }
        asked.used.insert(dependency.clone());
        let fact = self.facts.get(dependency);
        if fact.is_none() {
            asked.missing.insert(dependency.clone());
        }
        Ok(fact.map(AsRef::as_ref))
    }

    fn text(&self, key: &str) -> Result<KeyText, Error> {
        match self.find(&Dependency::key(key).map_err(refusal)?)? {
            Some(Fact::Key(None)) => Ok(KeyText::Unset),
            Some(Fact::Key(Some(bytes))) => Ok(KeyText::Set(text(key, bytes)?)),
            _ => Ok(KeyText::Unknown),
        }
    }
}

/// What is known of a key's value.
enum KeyText {
    Unknown,
    Unset,
    Set(String),
}

/// Makes the functions known to the engine.
pub fn register(engine: &mut Environment<'_>, lookups: &Arc<Lookups>) {
    let with = || Arc::clone(lookups);
    let at = with();
    engine.add_function("service", move |name: String, health: Option<String>, options: Kwargs| {
        service(&at, &name, health.as_deref(), &options)
    });
    let at = with();
    engine.add_function("services", move || match at.find(&Dependency::Services)? {
        Some(Fact::Services(services)) => Ok::<_, Error>(Value::from_serialize(services)),
        _ => Ok(empty_list()),
    });
    let at = with();
    engine.add_function("nodes", move || match at.find(&Dependency::Nodes)? {
        Some(Fact::Nodes(nodes)) => Ok::<_, Error>(Value::from_serialize(nodes)),
        _ => Ok(empty_list()),
    });
    let at = with();
    engine.add_function("node", move |name: Option<String>| node(&at, name));
    register_keys(engine, lookups);
    engine.add_function("env", |name: String, default: Option<String>| env(&name, default));
    engine.add_filter("by_tag", |instances: Value| by_tag(&instances));
    engine.add_filter("safe_name", |name: String| safe_name(&name));
}

fn register_keys(engine: &mut Environment<'_>, lookups: &Arc<Lookups>) {
    let with = || Arc::clone(lookups);
    let at = with();
    engine.add_function("key", move |key: String| match at.text(&key)? {
        KeyText::Set(value) => Ok(value),
        KeyText::Unknown => Ok(String::new()),
        KeyText::Unset => {
            Err(refusal(format!("key {key:?} is not set; set it, or write key_or({key:?}, \"a default\")")))
        }
    });
    let at = with();
    engine.add_function("key_or", move |key: String, default: Value| match at.text(&key)? {
        KeyText::Set(value) => Ok::<_, Error>(Value::from(value)),
        KeyText::Unknown | KeyText::Unset => Ok(default),
    });
    let at = with();
    engine.add_function("key_exists", move |key: String| {
        let fact = at.find(&Dependency::key(&key).map_err(refusal)?)?;
        Ok::<_, Error>(matches!(fact, Some(Fact::Key(Some(_)))))
    });
    let at = with();
    engine.add_function("tree", move |prefix: String| keys_below(&at, &prefix, Depth::All));
    let at = with();
    engine.add_function("ls", move |prefix: String| keys_below(&at, &prefix, Depth::Direct));
}

fn service(at: &Lookups, name: &str, health: Option<&str>, options: &Kwargs) -> Result<Value, Error> {
    let tag: Option<String> = options.get("tag")?;
    options.assert_all_used()?;
    let health = health.unwrap_or("passing");
    let (filter, wanted) = match health {
        "passing" => (HealthFilter::Passing, None),
        "any" => (HealthFilter::Any, None),
        "warning" | "critical" | "maintenance" => (HealthFilter::Any, Some(health)),
        other => {
            let words = "passing, any, warning, critical, maintenance";
            return Err(refusal(format!("service({name:?}, {other:?}): the second word is one of {words}")));
        }
    };
    let dependency = Dependency::service(name, tag, filter).map_err(refusal)?;
    match at.find(&dependency)? {
        Some(Fact::Instances(all)) => {
            let chosen = all.iter().filter(|one| wanted.is_none_or(|status| one.status == status));
            Ok(chosen.map(Value::from_serialize).collect())
        }
        _ => Ok(empty_list()),
    }
}

fn node(at: &Lookups, name: Option<String>) -> Result<Value, Error> {
    match at.find(&Dependency::Node(name))? {
        Some(Fact::Node(Some(details))) => Ok(Value::from_serialize(details)),
        _ => Ok(Value::from(())),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    All,
    Direct,
}

/// A key below a prefix, as templates see it.
#[derive(Serialize)]
struct Row<'a> {
    path: &'a str,
    key: &'a str,
    value: String,
}

fn keys_below(at: &Lookups, prefix: &str, depth: Depth) -> Result<Value, Error> {
    let trimmed = prefix.trim_matches('/');
    // Without the slash, "a" would also name "abc".
    let folder = if trimmed.is_empty() { String::new() } else { format!("{trimmed}/") };
    let Some(Fact::Pairs(pairs)) = at.find(&Dependency::Prefix(folder.clone()))? else {
        return Ok(empty_list());
    };
    let row = |pair: &'_ Pair| -> Option<Result<Value, Error>> {
        let key = pair.path.strip_prefix(&folder)?;
        // A key that ends in a slash stands for a folder.
        if key.is_empty() || key.ends_with('/') || (depth == Depth::Direct && key.contains('/')) {
            return None;
        }
        let value = text(&pair.path, &pair.value);
        Some(value.map(|value| Value::from_serialize(Row { path: &pair.path, key, value })))
    };
    pairs.iter().filter_map(row).collect::<Result<Vec<_>, _>>().map(Value::from)
}

fn env(name: &str, default: Option<String>) -> Result<String, Error> {
    match (std::env::var(name), default) {
        (Ok(value), _) | (Err(_), Some(value)) => Ok(value),
        (Err(_), None) => {
            Err(refusal(format!("the environment has no {name:?}; set it, or write env({name:?}, \"a default\")")))
        }
    }
}

/// From tag to the instances that have it, sorted by tag.
fn by_tag(instances: &Value) -> Result<Value, Error> {
    let mut groups: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for instance in instances.try_iter()? {
        let tags: BTreeSet<String> = instance.get_attr("tags")?.try_iter()?.map(|tag| tag.to_string()).collect();
        for tag in tags {
            groups.entry(tag).or_default().push(instance.clone());
        }
    }
    Ok(groups.into_iter().map(|(tag, group)| (tag, Value::from(group))).collect())
}

/// Only letters, digits and `-_.:`, so that it is one word wherever it is written.
fn safe_name(name: &str) -> String {
    let safe = |letter: char| if letter.is_ascii_alphanumeric() || "-_.:".contains(letter) { letter } else { '_' };
    name.chars().map(safe).collect()
}

fn text(key: &str, bytes: &[u8]) -> Result<String, Error> {
    String::from_utf8(bytes.to_vec()).map_err(|_| refusal(format!("the value of key {key:?} is no text")))
}

fn empty_list() -> Value {
    Value::from(Vec::<Value>::new())
}

fn refusal(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}
