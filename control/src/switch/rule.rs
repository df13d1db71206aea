//! By what the instances of one service are told apart.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::catalogue::Instance;

/// Where the metadata of a container has its compose project.
const COMPOSE_PROJECT: &str = "compose-project";
const LABEL: &str = "label:";

/// What the colour of an instance is. Written as `tag`, `compose-project` or `label:NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ColourRule {
    /// Each of its tags: the instance belongs to all of them.
    #[default]
    Tag,
    /// The compose project that it belongs to.
    ComposeProject,
    /// The value of this piece of its metadata; of a container, what its label or variable `SERVICE_NAME` says.
    Label(String),
}

/// A text that is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` says not what a colour is: tag, compose-project or label:NAME")]
pub struct NotARule(String);

impl ColourRule {
    /// The colours of an instance; most have one.
    pub fn colours(&self, instance: &Instance) -> Vec<String> {
        match self {
            Self::Tag => instance.tags.clone(),
            Self::ComposeProject => instance.meta.get(COMPOSE_PROJECT).cloned().into_iter().collect(),
            Self::Label(name) => instance.meta.get(name).cloned().into_iter().collect(),
        }
    }
}

impl fmt::Display for ColourRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag => f.write_str("tag"),
            Self::ComposeProject => f.write_str("compose-project"),
            Self::Label(name) => write!(f, "{LABEL}{name}"),
        }
    }
}

impl FromStr for ColourRule {
    type Err = NotARule;

    fn from_str(text: &str) -> Result<Self, NotARule> {
        match (text, text.strip_prefix(LABEL)) {
            ("tag", _) => Ok(Self::Tag),
            ("compose-project", _) => Ok(Self::ComposeProject),
            (_, Some(name)) if !name.is_empty() => Ok(Self::Label(name.to_owned())),
            _ => Err(NotARule(text.to_owned())),
        }
    }
}

impl TryFrom<String> for ColourRule {
    type Error = NotARule;

    fn try_from(text: String) -> Result<Self, NotARule> {
        text.parse()
    }
}

impl From<ColourRule> for String {
    fn from(rule: ColourRule) -> Self {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::catalogue::{Drain, InstanceId, Source};

    #[test]
    fn a_rule_finds_the_colours_that_it_names() {
        let instance = Instance {
            id: InstanceId("a:web:80".into()),
            service: "web".into(),
            address: None,
            port: 80,
            tags: vec!["blue".into(), "eu".into()],
            meta: BTreeMap::from([("compose-project".into(), "shop".into()), ("release".into(), "7".into())]),
            source: Source::Api,
            drain: Drain::Serving,
            checks: vec![],
        };
        let colours = |rule: &str| rule.parse::<ColourRule>().unwrap().colours(&instance);
        assert_eq!(colours("tag"), ["blue", "eu"]);
        assert_eq!(colours("compose-project"), ["shop"]);
        assert_eq!(colours("label:release"), ["7"]);
        assert_eq!(colours("label:none"), [""; 0]);
    }

    #[test]
    fn a_rule_is_read_as_it_is_written_and_nonsense_is_refused() {
        for rule in [ColourRule::Tag, ColourRule::ComposeProject, ColourRule::Label("x".into())] {
            assert_eq!(rule.to_string().parse(), Ok(rule));
        }
        for bad in ["", "label:", "tags", "colour"] {
            assert!(bad.parse::<ColourRule>().unwrap_err().to_string().contains("compose-project"));
        }
    }
}
