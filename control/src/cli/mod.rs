//! The command line: one file for each verb.
//!
//! A new verb is a file with `Args` (its `--help`, ending in an example) and `run`, and one line each in the two lists
//! below. What a verb refuses is a [`Failure`]: one line on standard error and an exit code.

mod balancer;
mod completions;
mod connect;
mod control;
mod dataplane;
mod demo;
mod dns_lookup;
mod docker_config;
mod drain;
mod expose;
mod follow;
mod forget;
mod gateway;
mod hide;
mod history;
pub(crate) mod kv;
mod launch;
pub mod output;
mod ps;
mod report;
mod reset;
mod rollback;
mod service;
mod services;
mod status;
mod stop;
mod supervise;
mod switch;
mod template;
mod token;
mod upgrade;
mod version;
mod voters;
mod watch;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{
    CommandFactory, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{defaults, failure::Failure, go_duration, paths::Paths};

/// The name of each verb's file, and of its variant.
macro_rules! verbs {
    ($($file:ident => $Variant:ident,)*) => {
        #[derive(Subcommand)]
        enum Verb { $($Variant($file::Args),)* }

        impl Verb {
            fn run(&self, paths: &Paths) -> Result<(), Failure> {
                match self { $(Self::$Variant(args) => $file::run(args, paths),)* }
            }
        }
    };
}

verbs! {
    launch => Launch,
    connect => Connect,
    forget => Forget,
    status => Status,
    ps => Ps,
    dns_lookup => DnsLookup,
    service => Service,
    services => Services,
    watch => Watch,
    switch => Switch,
    rollback => Rollback,
    history => History,
    drain => Drain,
    token => Token,
    docker_config => DockerConfig,
    expose => Expose,
    hide => Hide,
    kv => Kv,
    voters => Voters,
    template => Template,
    balancer => Balancer,
    upgrade => Upgrade,
    stop => Stop,
    reset => Reset,
    demo => Demo,
    report => Report,
    completions => Completions,
    version => Version,
    supervise => Supervise,
    control => Control,
    dataplane => Dataplane,
    gateway => Gateway,
}

/// One encrypted network for the containers of several Docker hosts.
#[derive(Parser)]
#[command(
    name = "weaved",
    version,
    max_term_width = 100,
    after_help = "Examples:\n  hostA# weaved launch\n  hostA# weaved token > t                        copy t to hostB\n  \
                  hostB# weaved launch --token-file t hostA\n\nExit codes: 0 done, 1 refused with a reason, 2 wrong \
                  usage, 3 weaved does not run on this host or does not answer."
)]
struct Line {
    #[command(subcommand)]
    verb: Verb,
    /// Directory of what must survive a reboot
    #[arg(long, global = true, env = "WEAVED_STATE_DIR", default_value = defaults::STATE_DIR, value_name = "DIR", hide_env_values = true)]
    state_dir: PathBuf,
    /// Directory of sockets and pid files
    #[arg(long, global = true, env = "WEAVED_RUN_DIR", default_value = defaults::RUN_DIR, value_name = "DIR", hide_env_values = true)]
    run_dir: PathBuf,
}

/// The time that an option is given.
fn time(option: &str, text: &str) -> Result<Duration, Failure> {
    go_duration::parse_or_seconds(text).ok_or_else(|| no_time(option, text))
}

/// For one that means nothing there.
fn no_time(option: &str, text: &str) -> Failure {
    Failure::usage(format!("{option} {text}: no time such as 10s or 1m30s"))
}

/// Reads the command line, does what it says, and tells how it went.
pub fn main() -> ExitCode {
    let outcome = match Line::try_parse() {
        Ok(line) => Paths::new(&line.state_dir, &line.run_dir).and_then(|paths| line.verb.run(&paths)),
        Err(error) => usage(&error),
    };
    match outcome.and_then(|()| output::finish()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&failure);
            failure.kind().into()
        }
    }
}

/// The command line without what is not for people.
fn visible() -> clap::Command {
    let line = Line::command();
    let verbs = line.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned();
    clap::Command::new("weaved")
        .version(env!("CARGO_PKG_VERSION"))
        .args(line.get_arguments().cloned())
        .subcommands(verbs)
}

/// Help is printed as it is; an error becomes one line.
fn usage(error: &clap::Error) -> Result<(), Failure> {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            output::say(text.trim_end());
            Ok(())
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            let verb = verb_of(&text).unwrap_or("weaved");
            Err(Failure::usage(format!("what should be done? `{verb} --help` lists the verbs")))
        }
        _ => {
            let essence = text.split("\n\n").next().unwrap_or(&text).trim_start_matches("error: ");
            let meant = suggestion(error).map(|meant| format!(", did you mean `{meant}`?")).unwrap_or_default();
            let meant = if text.contains("as a value, use '-- ") && verb_of(&text) == Some("weaved kv put") {
                ", write -- before a value that begins with a hyphen".to_owned()
            } else {
                meant
            };
            let see = match verb_of(&text) {
                Some(verb) => format!("see `{verb} --help`"),
                None => "see `weaved --help`, or --help behind the verb".to_owned(),
            };
            Err(Failure::usage(format!("{essence}{meant}; {see}")))
        }
    }
}

/// The program and the verb that was meant, as they stand in the line about usage.
fn verb_of(text: &str) -> Option<&str> {
    let usage = text.lines().find_map(|line| line.strip_prefix("Usage: "))?;
    // Verbs have hyphens, too.
    let end = [" [", " <", " -"].into_iter().filter_map(|begin| usage.find(begin)).min();
    Some(usage[..end.unwrap_or(usage.len())].trim_end())
}

/// The word that is most like the one that is not known.
fn suggestion(error: &clap::Error) -> Option<&str> {
    let kinds = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue];
    match kinds.into_iter().find_map(|kind| error.get(kind))? {
        ContextValue::String(word) => Some(word),
        ContextValue::Strings(words) => words.last().map(String::as_str),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All verbs, also those within others, each by its whole name.
    fn verbs(of: &clap::Command, name: &str) -> Vec<(String, clap::Command)> {
        let each = of.get_subcommands().filter(|verb| verb.get_name() != "help");
        let all = each.flat_map(|verb| {
            let name = format!("{name} {}", verb.get_name());
            let within = verbs(verb, &name);
            std::iter::once((name, verb.clone())).chain(within)
        });
        all.collect()
    }

    #[test]
    fn every_verb_has_an_example_and_says_what_it_does() {
        for (name, verb) in verbs(&Line::command(), "weaved") {
            assert!(verb.get_about().is_some(), "{name}");
            let example = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(example.contains(&name), "{name}: {example}");
        }
    }

    #[test]
    fn no_line_of_a_help_is_wider_than_a_hundred_columns() {
        let mut line = Line::command();
        line.build();
        for (name, mut verb) in verbs(&line, "weaved") {
            for help in [verb.render_help(), verb.render_long_help()] {
                let help = help.to_string();
                let wide = help.lines().find(|line| line.chars().count() > 100);
                assert_eq!(wide, None, "{name}");
            }
        }
    }

    fn complaint(line: &str) -> String {
        let error = Line::try_parse_from(line.split(' ')).err().expect("the line is wrong");
        usage(&error).expect_err("it is no help").to_string()
    }

    #[test]
    fn a_wrong_line_is_answered_by_one_that_says_what_to_do() {
        let expected = [
            ("weaved swich web", "unrecognized subcommand 'swich', did you mean `switch`?; see `weaved --help`"),
            (
                "weaved switch web green --drian 3s",
                "unexpected argument '--drian' found, did you mean `--drain`?; see `weaved switch --help`",
            ),
            (
                "weaved docker-config --instal",
                "unexpected argument '--instal' found, did you mean `--install`?; see `weaved docker-config --help`",
            ),
            (
                "weaved dns-lookup",
                "the following required arguments were not provided: <NAME>; see `weaved dns-lookup --help`",
            ),
            (
                "weaved kv put a -x",
                "unexpected argument '-x' found, write -- before a value that begins with a hyphen; see `weaved kv put --help`",
            ),
            ("weaved kv", "what should be done? `weaved kv --help` lists the verbs"),
            ("weaved", "what should be done? `weaved --help` lists the verbs"),
        ];
        for (line, answer) in expected {
            assert_eq!(complaint(line), answer, "{line}");
        }
    }

    #[test]
    fn values_may_begin_with_a_hyphen() {
        for line in ["weaved kv put a -5", "weaved kv put a -0.5 --flags 1", "weaved kv put a --cas 0 -- -x"] {
            assert!(Line::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Line::command().debug_assert();
    }
}
