//! Watching one dependency: blocking queries by consul-template's rules.
//!
//! The same index says that nothing is new; a lower one that the server has begun anew, so that everything is asked for again;
//! none, or zero, that it cannot park us, so that it is asked now and then. Failures keep the last fact and are tried again
//! after a growing pause.
//!
//! INVARIANT: between two queries for one thing there is at least [`limits::MIN_PAUSE`], whatever the server answers.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::sleep};

use super::{
    api::{Answer, Api, ApiError, Body},
    dependency::Dependency,
    fact::{self, Fact},
    limits,
};

/// What a watch has to tell.
#[derive(Debug)]
pub struct Report {
    /// About what.
    pub dependency: Dependency,
    /// The fact, or why there is none now.
    pub outcome: Result<Arc<Fact>, ApiError>,
}

/// The index to ask with, and what an answer's index means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    index: u64,
}

/// What is done with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its content is used.
    New,
    /// The query timed out: the content is what it was.
    Same,
    /// The server has begun anew; ask at once, without an index.
    Reset,
    /// Its content is used; the server cannot park us.
    Unparked,
}

impl Cursor {
    /// Takes the index of an answer.
    pub fn on_answer(&mut self, index: u64) -> Verdict {
        match (index, self.index) {
            (0, _) => {
                self.index = 0;
                Verdict::Unparked
            }
            (new, old) if new == old => Verdict::Same,
            (new, old) if new < old => {
                self.index = 0;
                Verdict::Reset
            }
            (new, _) => {
                self.index = new;
                Verdict::New
            }
        }
    }

    /// The parameters of the next query.
    pub fn parameters(self) -> String {
        let wait = limits::BLOCK.as_millis();
        if self.index == 0 { format!("&wait={wait}ms") } else { format!("&wait={wait}ms&index={}", self.index) }
    }
}

/// The pause after so many failures in a row.
pub fn backoff(failure_count: u32) -> Duration {
    let doublings = failure_count.saturating_sub(1).min(16);
    (limits::FIRST_BACKOFF * (1 << doublings)).min(limits::MAX_BACKOFF)
}

/// Asks once, as `--once` does.
pub async fn fetch(api: &Api, dependency: &Dependency) -> Result<Fact, ApiError> {
    let resolved = resolve(api, dependency).await?;
    let answer = api.get(&resolved.path()).await?;
    understand(&resolved, answer)
}

/// Watches until the receiver has gone.
pub async fn watch(api: Api, dependency: Dependency, reports: mpsc::Sender<Report>) {
    let mut cursor = Cursor::default();
    let mut failure_count = 0;
    let mut resolved = None;
    loop {
        let (outcome, pause) = match step(&api, &dependency, &mut resolved, &mut cursor).await {
            Ok((fact, pause)) => {
                failure_count = 0;
                (fact.map(Ok), pause)
            }
            Err(error) => {
                // A server that comes back may have begun anew with an index like ours.
                cursor = Cursor::default();
                failure_count += 1;
                (Some(Err(error)), backoff(failure_count))
            }
        };
        if let Some(outcome) = outcome {
            let outcome = outcome.map(Arc::new);
            if reports.send(Report { dependency: dependency.clone(), outcome }).await.is_err() {
                return;
            }
        }
        sleep(pause).await;
    }
}

/// One query: what it gave, if that is new, and the pause before the next.
async fn step(
    api: &Api,
    dependency: &Dependency,
    resolved: &mut Option<Dependency>,
    cursor: &mut Cursor,
) -> Result<(Option<Fact>, Duration), ApiError> {
    let target = match resolved.take() {
        Some(target) => target,
        None => resolve(api, dependency).await?,
    };
    let answer = api.get(&(target.path() + &cursor.parameters())).await?;
    let verdict = cursor.on_answer(answer.index);
    let fact = match verdict {
        Verdict::Same | Verdict::Reset => None,
        Verdict::New | Verdict::Unparked => Some(understand(&target, answer)?),
    };
    *resolved = Some(target);
    Ok((fact, if verdict == Verdict::Unparked { limits::POLL_PAUSE } else { limits::MIN_PAUSE }))
}

/// "This node" has a name, which its own API knows.
async fn resolve(api: &Api, dependency: &Dependency) -> Result<Dependency, ApiError> {
    if *dependency != Dependency::Node(None) {
        return Ok(dependency.clone());
    }
    match api.get(&dependency.path()).await?.body {
        Body::Found(body) => Ok(Dependency::Node(Some(fact::own_name(&body).map_err(ApiError::Away)?))),
        Body::Absent => Err(ApiError::Refused(format!("{} knows no {}", api.base(), dependency.path()))),
    }
}

fn understand(dependency: &Dependency, answer: Answer) -> Result<Fact, ApiError> {
    match answer.body {
        Body::Found(body) => {
            fact::parse(dependency, &body).map_err(|error| ApiError::Away(format!("{dependency}: {error}")))
        }
        Body::Absent => fact::absent(dependency)
            .ok_or_else(|| ApiError::Refused(format!("{dependency}: the API answers 404; is it Consul's?"))),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Verdict::{New, Reset, Same, Unparked},
        *,
    };

    #[test]
    fn indexes_follow_consul_template_s_rules() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.parameters(), "&wait=60000ms");
        let verdicts = [7, 7, 9, 3, 3, 0, 4].map(|index| cursor.on_answer(index));
        assert_eq!(verdicts, [New, Same, New, Reset, New, Unparked, New]);
        assert_eq!(cursor.parameters(), "&wait=60000ms&index=4");
    }

    #[test]
    fn a_reset_asks_without_an_index() {
        let mut cursor = Cursor::default();
        cursor.on_answer(9);
        assert_eq!(cursor.on_answer(2), Verdict::Reset);
        assert_eq!(cursor.parameters(), "&wait=60000ms");
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        assert_eq!(backoff(1), limits::FIRST_BACKOFF);
        assert_eq!(backoff(2), limits::FIRST_BACKOFF * 2);
        assert_eq!(backoff(u32::MAX), limits::MAX_BACKOFF);
    }
}
