//! `weaved voters`: who decides guarded keys, and going on without a majority that is gone for good.

use super::output::{self, Table};
use crate::{
    failure::Failure,
    node::VotersStatus,
    paths::Paths,
    serve::{client, protocol::Request},
};

/// Show who decides guarded keys; go on without a majority that is gone for good
///
/// A guarded key is changed when a majority of the voters answers. Where most hosts are lost for ever and nobody can be
/// asked, --found-anew lets those that answer decide from now on. What only the lost ones had decided is lost. If they run
/// on elsewhere, both sides decide, and what theirs does is void when they meet: repair the network first.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  weaved voters\n  weaved voters --found-anew --yes")]
pub(super) struct Args {
    /// Give up the voters that do not answer; refused while a majority answers
    #[arg(long)]
    found_anew: bool,
    /// Confirm that they are gone for good, and that what only they knew may be lost
    #[arg(long, requires = "found_anew")]
    yes: bool,
    /// As JSON
    #[arg(long, conflicts_with = "found_anew")]
    json: bool,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    let Some(voters) = client::status(paths)?.cluster.voters else {
        return Err(Failure::refused("this host has not heard yet who votes; see `weaved status`"));
    };
    if args.json {
        return output::say_json(&voters);
    }
    if !args.found_anew {
        tell(&voters);
        return Ok(());
    }
    if !args.yes && voters.up_count() < voters.majority {
        let lost: Vec<_> = voters.voters.iter().filter(|voter| !voter.is_up).map(|voter| &*voter.name).collect();
        return Err(Failure::refused(format!(
            "this gives up {}: what only they have decided is lost, and if they run on elsewhere what they decide is void; \
             nothing was changed, do it with --yes",
            lost.join(", ")
        )));
    }
    for line in client::request(paths, &Request::FoundVotersAnew)?.lines {
        output::say(line);
    }
    Ok(())
}

fn tell(voters: &VotersStatus) {
    let mut table = Table::new(&["VOTER", "ID", "ANSWERS"]);
    for voter in &voters.voters {
        table.row([voter.name.clone(), voter.id.short().to_string(), if voter.is_up { "yes" } else { "no" }.into()]);
    }
    output::say(&table);
    let anew = match voters.founded_anew {
        0 => String::new(),
        count => format!("; founded anew {count} times"),
    };
    let (up_count, all_count) = (voters.up_count(), voters.voters.len());
    output::say(format!(
        "\nguarded      keys below {}, locks\nmajority     {} of {all_count}, {up_count} answer{anew}",
        voters.guarded.join(", "),
        voters.majority
    ));
    if up_count < voters.majority {
        output::say("             so changes of guarded keys are refused; if the others are gone for good:");
        output::say("             weaved voters --found-anew");
    }
}
