//! What verbs ask about switches: an order is begun, and its progress asked for until it has ended.
//!
//! A question that has no answer yet waits here; the loop does not.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use weaved_api::PeerId;

use super::{Daemon, kv::Client};
use crate::{
    node::HostDrain,
    serve::protocol::Reply,
    switch::{AttemptId, Order},
};

/// How long a verb waits for something new; then it asks again.
const PROGRESS_PATIENCE: Duration = Duration::from_secs(5);

/// A verb that waits for what comes next.
#[derive(Debug)]
pub(super) struct ProgressCall {
    attempt: AttemptId,
    after: usize,
    pub(super) deadline: Instant,
    reply: oneshot::Sender<Reply>,
}

impl Daemon {
    pub(super) fn begin_switch(&mut self, order: Order, now: Instant) -> Result<Reply, String> {
        let begun = self.node.handle_switch(order, now);
        begun.map(Reply::SwitchBegun).map_err(|refusal| refusal.to_string())
    }

    pub(super) fn await_progress(
        &mut self,
        attempt: AttemptId,
        after: usize,
        reply: oneshot::Sender<Reply>,
        now: Instant,
    ) {
        // The number of verbs at once is bounded by the socket.
        self.progress_calls.push(ProgressCall { attempt, after, deadline: now + PROGRESS_PATIENCE, reply });
    }

    /// Answers those for whom there is something new.
    pub(super) fn answer_progress(&mut self, now: Instant) {
        for call in std::mem::take(&mut self.progress_calls) {
            let answer = match self.node.switch_progress(call.attempt, call.after) {
                None => {
                    Reply::refused("weaved was restarted meanwhile: `weaved history` tells whether it was switched")
                }
                Some(report) if report.lines.is_empty() && report.outcome.is_none() && now < call.deadline => {
                    self.progress_calls.push(call);
                    continue;
                }
                Some(report) => Reply::SwitchProgress(Box::new(report)),
            };
            // A verb that was interrupted does not want its answer.
            drop(call.reply.send(answer));
        }
    }

    pub(super) fn tell_record(&self, service: &str) -> Result<Reply, String> {
        if let Some(record) = self.node.switch_record(service) {
            return Ok(Reply::SwitchRecord(Box::new(record.clone())));
        }
        let known: Vec<_> = self.node.switch_records().map(|(service, _)| service.to_owned()).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        Err(format!("`{}` was never switched; services that were: {known}", service.escape_debug()))
    }

    pub(super) fn drain_host(
        &mut self,
        host: PeerId,
        drain: HostDrain,
        by: &str,
        reply: oneshot::Sender<Reply>,
        now: Instant,
    ) {
        let id = self.kv_client.take_id();
        self.kv_desk.expect(id, Client::Verb(reply));
        self.node.handle_host_drain(id, host, drain, by, now);
    }
}
