//! A canary: the new colour gets a small share first, and more with each step.

use serde::{Deserialize, Serialize};
use weaved_api::balancer::ColourShare;

use super::{limits::MAX_STEPS, record::only};

/// A canary that is out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// The colour that had everything.
    pub from: String,
    /// The colour that is to have it.
    pub to: String,
    /// Shares of the new colour, in percent, growing.
    pub steps: Vec<u32>,
    /// Which of the steps is in force.
    pub place: usize,
    /// How long each lasts, in milliseconds.
    pub step_ms: u64,
    /// True while it goes no further by itself.
    pub paused: bool,
    /// Why its next step, which is due, is not taken yet; the first reason while there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

/// What a canary is to do, as it was ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryPlan {
    /// Shares of the new colour, in percent, growing.
    pub steps: Vec<u32>,
    /// How long each lasts, in milliseconds.
    pub step_ms: u64,
    /// True if it goes no further than the first step by itself: steady weights.
    #[serde(default)]
    pub paused: bool,
}

impl CanaryPlan {
    /// The reason why it cannot be carried out.
    pub fn problem(&self) -> Option<String> {
        let grows = self.steps.windows(2).all(|pair| pair[0] < pair[1]);
        let is_good = grows && self.steps.iter().all(|step| (1..100).contains(step));
        if self.steps.is_empty() || self.steps.len() > MAX_STEPS || !is_good {
            return Some(format!(
                "a canary has 1 to {MAX_STEPS} steps of 1 to 99 percent, each greater than the one before, such as 1,10,50"
            ));
        }
        (self.step_ms < 1000).then(|| "a step of a canary lasts at least 1s".into())
    }

    /// The canary at its first step.
    pub fn begin(&self, from: &str, to: &str) -> Canary {
        let (steps, step_ms) = (self.steps.clone(), self.step_ms);
        Canary { from: from.into(), to: to.into(), steps, place: 0, step_ms, paused: self.paused, held: None }
    }
}

impl Canary {
    /// What is live at this step.
    pub fn shares(&self) -> Vec<ColourShare> {
        let percent = self.steps.get(self.place).copied().unwrap_or(100).min(100);
        let share = |colour: &str, weight| ColourShare { colour: colour.to_owned(), weight };
        vec![share(&self.from, 100 - percent), share(&self.to, percent)]
    }

    /// What follows: the next step, or the new colour for good.
    pub fn next(&self) -> (Vec<ColourShare>, Option<Self>) {
        let next = Self { place: self.place + 1, held: None, ..self.clone() };
        if next.place < next.steps.len() { (next.shares(), Some(next)) } else { (only(&self.to), None) }
    }

    /// In words, such as `step 2 of 3`.
    pub fn step_in_words(&self) -> String {
        format!("step {} of {}", self.place + 1, self.steps.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::record::describe;

    #[test]
    fn the_share_grows_step_by_step_until_the_new_colour_has_everything() {
        let plan = CanaryPlan { steps: vec![1, 10, 50], step_ms: 60_000, paused: false };
        assert_eq!(plan.problem(), None);
        let mut canary = plan.begin("blue", "green");
        let mut seen = vec![describe(&canary.shares())];
        loop {
            let (shares, next) = canary.next();
            seen.push(describe(&shares));
            match next {
                Some(next) => canary = next,
                None => break,
            }
        }
        assert_eq!(seen, ["blue 99 %, green 1 %", "blue 90 %, green 10 %", "blue 50 %, green 50 %", "green"]);
    }

    #[test]
    fn steps_that_do_not_grow_are_refused() {
        for steps in [vec![], vec![0], vec![100], vec![10, 10], vec![50, 10], (1..=21).collect()] {
            assert!(CanaryPlan { steps, step_ms: 60_000, paused: false }.problem().is_some());
        }
        assert!(CanaryPlan { steps: vec![5], step_ms: 10, paused: false }.problem().is_some());
    }
}
