//! A template and what the API answers to what it asks for.

use std::sync::Arc;

use super::assert_is_a_line;
use crate::template::{
    fact::{self, Fact},
    functions::Facts,
    render::{Outcome, check_syntax, render},
};

/// How often it may ask for more.
const MAX_TURNS: usize = 4;

/// The template, then the bodies of the API's answers, each behind a NUL; an empty one is a 404.
pub fn fuzz_template(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == 0);
    let source = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let checked = check_syntax("t.j2", &source);
    if let Err(error) = &checked {
        assert_is_a_line(Some(&error.to_string()));
    }
    let mut facts = Facts::new();
    for _ in 0..MAX_TURNS {
        let rendering = render("t.j2", &source, &facts);
        match &rendering.outcome {
            Outcome::Text(_) => assert!(checked.is_ok() && rendering.asked.missing.is_empty()),
            Outcome::Incomplete => assert!(!rendering.asked.missing.is_empty()),
            Outcome::Failed(error) => assert_is_a_line(Some(&error.to_string())),
        }
        let known_count = facts.len();
        for dependency in rendering.asked.missing {
            let Some(body) = parts.next() else { return };
            let path = dependency.path();
            assert!(path.starts_with("/v1/") && path.bytes().all(|byte| byte.is_ascii_graphic()), "{path:?}");
            let found = if body.is_empty() { fact::absent(&dependency) } else { fact::parse(&dependency, body).ok() };
            if let Some(found) = found {
                assert_clean(&found);
                facts.insert(dependency, Arc::new(found));
            }
        }
        if facts.len() == known_count {
            return;
        }
    }
}

/// Names and tags write no lines into a file.
fn assert_clean(found: &Fact) {
    let Fact::Instances(instances) = found else { return };
    for instance in instances {
        let words = [&instance.id, &instance.name, &instance.node, &instance.address].into_iter().chain(&instance.tags);
        words.for_each(|word| assert!(!word.contains(char::is_control), "{instance:?}"));
    }
}
