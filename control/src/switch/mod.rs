//! Which version of a service is live, and how the whole cluster goes over to another one at once.

mod rule;

pub use rule::{ColourRule, NotARule};

/// What the operator's file of this host says of a service that its balancer serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Its name in the catalogue.
    pub name: String,
    /// The key that shows the live colour; None for the usual one, `backend/NAME`.
    pub key: Option<String>,
    /// What a colour of it is; None for the usual rule, its tags.
    pub colour: Option<ColourRule>,
}
