//! The configuration of `weaved template`: TOML, for it is written by hand.
//!
//! Everything is checked before anything runs: unknown words, limits, and the syntax of each template. Relative paths count from
//! the directory of the configuration, so that it does not matter where the program was started.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer, de::Error as _};
use weaved_gateway::bounded_file;

use super::{command::CommandLine, limits, quiet::Wait, render};

/// Bursts become one reload, and a switch is not felt as slow.
const DEFAULT_WAIT: Wait = Wait { min: Duration::from_millis(200), max: Duration::from_secs(2) };

/// Checks and reloads of proxies take a second or two.
const DEFAULT_COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Nothing that is waited for takes longer.
const MAX_DURATION: Duration = Duration::from_secs(3600);

/// One file to render.
#[derive(Clone, Debug)]
pub struct Template {
    /// Name of the source for messages.
    pub name: String,
    /// Its text.
    pub source: String,
    /// The file that is written.
    pub destination: PathBuf,
    /// Its mode; none keeps what is there.
    pub mode: Option<u32>,
    /// Has to agree before the file is replaced.
    pub check: Option<CommandLine>,
    /// Runs after the file has changed.
    pub reload: Option<CommandLine>,
    /// Quiet time.
    pub wait: Wait,
    /// How long each command may take.
    pub command_timeout: Duration,
}

/// As it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawConfig {
    #[serde(default)]
    wait: Option<RawWait>,
    #[serde(default)]
    template: Vec<RawTemplate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTemplate {
    source: PathBuf,
    destination: PathBuf,
    #[serde(default, deserialize_with = "octal")]
    permissions: Option<u32>,
    check: Option<CommandLine>,
    reload: Option<CommandLine>,
    wait: Option<RawWait>,
    #[serde(default, deserialize_with = "some_duration")]
    command_timeout: Option<Duration>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWait {
    #[serde(deserialize_with = "duration")]
    min: Duration,
    #[serde(default, deserialize_with = "some_duration")]
    max: Option<Duration>,
}

/// Reads the configuration and the templates that it names. The error is one line.
pub fn load(path: &Path) -> Result<Vec<Template>, String> {
    let raw = parse(path, &read_bounded(path)?)?;
    let base = path.parent().unwrap_or(Path::new(""));
    let wait = raw.wait;
    let read: BTreeSet<_> = raw.template.iter().map(|template| base.join(&template.source)).collect();
    let read: BTreeSet<_> = read.iter().map(PathBuf::as_path).chain([path]).filter_map(real_path).collect();
    let templates = raw.template.into_iter().map(|template| template.check(base, wait));
    let templates = templates.collect::<Result<Vec<_>, _>>()?;
    let is_read = |template: &&Template| real_path(&template.destination).is_some_and(|path| read.contains(&path));
    if let Some(template) = templates.iter().find(is_read) {
        return Err(format!(
            "{}: destination {} is itself a source or this file; writing it would destroy it, name another one",
            path.display(),
            template.destination.display()
        ));
    }
    let mut seen = BTreeSet::new();
    match templates.iter().find(|template| !seen.insert(&template.destination)) {
        Some(twice) => Err(format!("{}: two templates write {}", path.display(), twice.destination.display())),
        None => Ok(templates),
    }
}

/// Reads the configuration alone.
pub(crate) fn parse(path: &Path, text: &str) -> Result<RawConfig, String> {
    let raw: RawConfig = toml::from_str(text).map_err(|error| {
        let (line, column) = place(text, error.span().map_or(0, |span| span.start));
        format!("{}:{line}:{column}: {}", path.display(), error.message())
    })?;
    let count = raw.template.len();
    if !(1..=limits::MAX_TEMPLATES).contains(&count) {
        let most = limits::MAX_TEMPLATES;
        return Err(format!("{}: {count} templates; write 1 to {most} sections [[template]]", path.display()));
    }
    Ok(raw)
}

/// Where a path leads, over symbolic links and `..`; none where nothing is.
fn real_path(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok()
}

impl RawTemplate {
    fn check(self, base: &Path, wait: Option<RawWait>) -> Result<Template, String> {
        let source_path = base.join(&self.source);
        let name = source_path.display().to_string();
        let source = read_bounded(&source_path)?;
        render::check_syntax(&name, &source).map_err(|error| error.to_string())?;
        for (word, command) in [("check", &self.check), ("reload", &self.reload)] {
            if command.as_ref().is_some_and(CommandLine::is_empty) {
                return Err(format!("{name}: {word} is empty; name a command or leave it out"));
            }
        }
        let wait = self.wait.or(wait).map_or(Ok(DEFAULT_WAIT), RawWait::check).map_err(|e| format!("{name}: {e}"))?;
        Ok(Template {
            name,
            source,
            destination: base.join(&self.destination),
            mode: self.permissions,
            check: self.check,
            reload: self.reload,
            wait,
            command_timeout: self.command_timeout.unwrap_or(DEFAULT_COMMAND_TIMEOUT),
        })
    }
}

impl RawWait {
    /// Without a maximum it is four times the minimum, as in consul-template.
    fn check(self) -> Result<Wait, String> {
        let max = self.max.unwrap_or(self.min * 4);
        if max < self.min {
            return Err("wait: max is shorter than min".into());
        }
        Ok(Wait { min: self.min, max })
    }
}

fn read_bounded(path: &Path) -> Result<String, String> {
    let text = bounded_file::read_text(path, limits::MAX_SOURCE_BYTES);
    text.map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// `"0640"`: as a number it would be decimal to TOML and octal to its author.
fn octal<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u32>, D::Error> {
    let text = String::deserialize(value)?;
    let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.map(Some)
        .ok_or_else(|| D::Error::custom(format!("permissions {text:?}: write three octal digits, as \"0644\"")))
}

fn duration<'de, D: Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(value)?;
    parse_duration(&text).filter(|duration| *duration <= MAX_DURATION).ok_or_else(|| {
        D::Error::custom(format!("{text:?} is no duration up to an hour; write as \"500ms\", \"5s\", \"2m\""))
    })
}

fn some_duration<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Duration>, D::Error> {
    duration(value).map(Some)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let count: u64 = text[..digits].parse().ok()?;
    let milliseconds = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return None,
    };
    count.checked_mul(milliseconds).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(config: &str) -> Result<Vec<Template>, String> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.j2"), "a {{ key('k') }}").unwrap();
        fs::write(dir.path().join("bad.j2"), "one\n{% if %}").unwrap();
        fs::write(dir.path().join("c.toml"), config).unwrap();
        load(&dir.path().join("c.toml"))
    }

    #[test]
    fn a_configuration_is_read_with_its_defaults() {
        let config = "wait = { min = '1s' }\n[[template]]\nsource = 'a.j2'\ndestination = 'out'\npermissions = '0640'\n\
                      check = 'haproxy -c -f {}'\nreload = ['systemctl', 'reload', 'haproxy']\n\
                      [[template]]\nsource = 'a.j2'\ndestination = '/tmp/x'\nwait = { min = '0s', max = '3s' }\n";
        let templates = loaded(config).unwrap();
        assert_eq!(templates[0].wait, Wait { min: Duration::from_secs(1), max: Duration::from_secs(4) });
        assert_eq!(templates[0].mode, Some(0o640));
        assert!(templates[0].destination.is_absolute());
        assert_eq!(templates[1].wait.max, Duration::from_secs(3));
        assert_eq!(templates[1].destination, Path::new("/tmp/x"));
    }

    #[test]
    fn what_is_read_is_never_written() {
        let one = |destination: &str| format!("[[template]]\nsource = 'a.j2'\ndestination = '{destination}'\n");
        let two =
            |destination: &str| format!("{}[[template]]\nsource = 'b.j2'\ndestination = 'out'\n", one(destination));
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.j2", "b.j2"] {
            fs::write(dir.path().join(name), "text").unwrap();
        }
        fs::create_dir(dir.path().join("sub")).unwrap();
        std::os::unix::fs::symlink("a.j2", dir.path().join("link")).unwrap();
        let config = dir.path().join("c.toml");
        for (text, destination) in [
            (one("a.j2"), "a.j2"),
            (one("./sub/../a.j2"), "a.j2"),
            (one("link"), "link"),
            (two("b.j2"), "b.j2"),
            (one("c.toml"), "c.toml"),
        ] {
            fs::write(&config, text).unwrap();
            let said = load(&config).unwrap_err();
            assert!(said.contains("is itself a source or this file") && said.contains(destination), "{said}");
        }
        fs::write(&config, two("sub/a.j2")).unwrap();
        assert_eq!(load(&config).unwrap().len(), 2);
    }

    #[test]
    fn each_mistake_is_named_with_its_place() {
        let one = "[[template]]\nsource = 'a.j2'\ndestination = 'out'\n";
        let cases = [
            (String::new(), "[[template]]"),
            (format!("{one}chek = 'x'\n"), "c.toml:4:1"),
            (format!("{one}permissions = '999'\n"), "octal"),
            (format!("{one}wait = {{ min = '5' }}\n"), "no duration"),
            (format!("{one}wait = {{ min = '5s', max = '1s' }}\n"), "shorter"),
            (format!("{one}check = ''\n"), "check is empty"),
            (format!("{one}{one}"), "two templates write"),
            ("[[template]]\nsource = 'no.j2'\ndestination = 'x'\n".into(), "cannot read"),
            ("[[template]]\nsource = 'bad.j2'\ndestination = 'x'\n".into(), "bad.j2:2:"),
        ];
        for (config, expected) in cases {
            let said = loaded(&config).unwrap_err();
            assert!(said.contains(expected) && !said.contains('\n'), "{said} / {expected}");
        }
    }
}
