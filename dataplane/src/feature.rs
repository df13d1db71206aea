//! One kernel offload: what the operator wants, what was found out at the start, and what follows from both.

use weaved_api::{FeatureStatus, Force, Switch};

/// The outcome of a self-test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it can be used.
    pub works: bool,
    /// What that is known from, in a phrase.
    pub reason: &'static str,
}

/// An offload and how it came to be used or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// What the operator wants.
    pub switch: Switch,
    /// Whether it is used.
    pub is_on: bool,
    /// Why, in a phrase.
    pub reason: &'static str,
}

impl Finding {
    /// It works, because of this.
    pub(crate) const fn works(reason: &'static str) -> Self {
        Self { works: true, reason }
    }

    /// It does not, because of this.
    pub(crate) const fn fails(reason: &'static str) -> Self {
        Self { works: false, reason }
    }
}

impl Feature {
    /// What follows from the switch and the finding; none when the operator insists on what does not work.
    pub(crate) fn decide(switch: Switch, finding: Finding) -> Option<Self> {
        match switch {
            Switch::Off => Some(Self { switch, is_on: false, reason: "switched off" }),
            Switch::On if !finding.works => None,
            Switch::Auto | Switch::On => Some(Self { switch, is_on: finding.works, reason: finding.reason }),
        }
    }

    /// For `status`. `refused` tells what the kernel has refused since the start, if anything.
    pub(crate) fn status(&self, refused: Option<String>) -> FeatureStatus {
        let force = match (self.is_on, &refused) {
            (false, _) => Force::Off,
            (true, None) => Force::On,
            (true, Some(_)) => Force::Partly,
        };
        let refused = refused.filter(|_| self.is_on);
        FeatureStatus { switch: self.switch, force, reason: refused.unwrap_or_else(|| self.reason.to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_decides_over_the_self_test_and_insisting_on_what_fails_is_an_error() {
        let (works, fails) = (Finding::works("tested"), Finding::fails("broken"));
        let is_on = |switch, finding| Feature::decide(switch, finding).map(|feature| feature.is_on);
        assert_eq!([is_on(Switch::Auto, works), is_on(Switch::Auto, fails)], [Some(true), Some(false)]);
        assert_eq!([is_on(Switch::On, works), is_on(Switch::On, fails)], [Some(true), None]);
        assert_eq!([is_on(Switch::Off, works), is_on(Switch::Off, fails)], [Some(false); 2]);
    }

    #[test]
    fn a_refusal_since_the_start_is_what_status_tells() {
        let feature = Feature::decide(Switch::Auto, Finding::works("tested")).unwrap();
        let status = feature.status(None);
        assert_eq!((status.force, status.reason.as_str()), (Force::On, "tested"));
        let status = feature.status(Some("refused towards x".into()));
        assert_eq!((status.force, status.reason.as_str()), (Force::Partly, "refused towards x"));
        let off = Feature::decide(Switch::Off, Finding::works("tested")).unwrap();
        assert_eq!(off.status(Some("refused".into())).reason, "switched off");
    }
}
