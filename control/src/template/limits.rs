//! The bounds of `weaved template`. What is above is refused with one line; nothing is cut in silence but the output of commands.

use std::time::Duration;

/// Files in one configuration.
pub const MAX_TEMPLATES: usize = 64;

/// The configuration, or one template.
pub const MAX_SOURCE_BYTES: u64 = 1 << 20;

/// One rendered file.
pub const MAX_RENDERED_BYTES: usize = 16 << 20;

/// Instructions of one rendering: some seconds. A loop over everything in a large catalogue needs a few per cent of it.
pub const MAX_FUEL: u64 = 20_000_000;

/// Different things that one template asks for; each is a parked query.
pub const MAX_DEPENDENCIES: usize = 1_000;

/// One answer of the API.
pub const MAX_ANSWER_BYTES: usize = 32 << 20;

/// What is kept of a command's output; the rest is read and dropped, so that the command does not block.
pub const MAX_OUTPUT_BYTES: usize = 8 << 10;

/// What is shown of a command's output, in characters.
pub const MAX_SHOWN_CHARS: usize = 400;

/// How long a query is parked, as in consul-template.
pub const BLOCK: Duration = Duration::from_secs(60);

/// A query that neither answers nor fails: the block, Consul's sixteenth of it, and a slow network.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(75);

/// Between two queries for the same thing, as in consul-template: a busy catalogue must not keep us busy.
pub const MIN_PAUSE: Duration = Duration::from_millis(100);

/// The pause after an answer without an index: such a server cannot park us.
pub const POLL_PAUSE: Duration = Duration::from_secs(2);

/// The first pause after a failure; each next one is twice as long.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(250);

/// The first pause after a command or a write that failed; each next one is twice as long.
pub const FIRST_RETRY: Duration = Duration::from_secs(5);

/// The longest of them: how long a file may be behind once what was in its way is gone.
pub const MAX_RETRY: Duration = Duration::from_mins(1);

/// The longest pause after a failure: how long files may be behind once the API is back.
pub const MAX_BACKOFF: Duration = Duration::from_secs(8);
