//! `weaved completions`: what a shell needs to complete verbs and options.

use clap::ValueEnum;
use clap_complete::Shell;

use super::output;
use crate::{failure::Failure, paths::Paths};

/// Print completions for a shell
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  weaved completions bash > /etc/bash_completion.d/weaved\n  \
                  weaved completions zsh > /usr/local/share/zsh/site-functions/_weaved\n  \
                  weaved completions fish > /etc/fish/completions/weaved.fish")]
pub(super) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Known,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Known {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(args: &Args, _paths: &Paths) -> Result<(), Failure> {
    output::say(script(args.shell)?.trim_end());
    Ok(())
}

fn script(shell: Known) -> Result<String, Failure> {
    let shell = match shell {
        Known::Bash => Shell::Bash,
        Known::Zsh => Shell::Zsh,
        Known::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::visible(), "weaved", &mut script);
    String::from_utf8(script).map_err(|error| Failure::refused(format!("the completions are no text: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_learns_the_verbs_of_people_and_no_others() {
        for shell in Known::value_variants() {
            let script = script(*shell).unwrap();
            for word in ["docker-config", "uninstall", "state-dir", "fish"] {
                assert!(script.contains(word), "{shell:?}: {word}");
            }
            assert!(!script.contains("supervise"), "{shell:?}");
        }
    }
}
