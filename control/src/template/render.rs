//! One rendering of one template: from source and facts to text, to a list of what is missing, or to an error with its place.
//!
//! Undefined names are errors, nothing is escaped, a block's line leaves no empty line behind. Time and size are bounded.

use std::{fmt, io};

use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior, context};

use super::{
    functions::{self, Asked, Facts, Lookups},
    limits,
};

/// What became of it, and what it has asked for.
#[derive(Debug)]
pub struct Rendering {
    /// What the template depends on, as far as it got.
    pub asked: Asked,
    /// The text, or why there is none.
    pub outcome: Outcome,
}

/// The result of a rendering.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was there.
    Text(Vec<u8>),
    /// Something is not known yet.
    Incomplete,
    /// The template cannot be rendered with these facts.
    Failed(TemplateError),
}

/// What is wrong in a template, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// Name of the source.
    pub source_name: String,
    /// Line and column, from 1; column in characters.
    pub place: Option<(usize, usize)>,
    /// One sentence.
    pub message: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {}", self.source_name, self.message),
            None => write!(f, "{}: {}", self.source_name, self.message),
        }
    }
}

/// Whether the source is a template at all; a configuration with one that is not is refused.
pub fn check_syntax(source_name: &str, source: &str) -> Result<(), TemplateError> {
    let engine = engine();
    engine.template_from_named_str(source_name, source).map_err(|error| describe(source_name, source, &error))?;
    Ok(())
}

/// Renders once.
pub fn render(source_name: &str, source: &str, facts: &Facts) -> Rendering {
    let lookups = Lookups::new(facts.clone());
    let mut engine = engine();
    functions::register(&mut engine, &lookups);
    let mut output = Bounded(Vec::new());
    let template = engine.template_from_named_str(source_name, source);
    let outcome = template.and_then(|template| template.render_captured_to(context!(), &mut output).map(drop));
    let asked = lookups.asked();
    let outcome = match outcome {
        // A stand-in may have led to the error.
        _ if !asked.missing.is_empty() => Outcome::Incomplete,
        Ok(()) => Outcome::Text(output.0),
        Err(error) => Outcome::Failed(describe(source_name, source, &error)),
    };
    Rendering { asked, outcome }
}

fn engine<'source>() -> Environment<'source> {
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_auto_escape_callback(|_| AutoEscape::None);
    engine.set_trim_blocks(true);
    engine.set_lstrip_blocks(true);
    engine.set_keep_trailing_newline(true);
    engine.set_fuel(Some(limits::MAX_FUEL));
    engine.set_debug(true);
    engine
}

fn describe(source_name: &str, source: &str, error: &Error) -> TemplateError {
    let column = |start: usize| {
        let line_start = source[..start].rfind('\n').map_or(0, |newline| newline + 1);
        source[line_start..start].chars().count() + 1
    };
    let start = error.range().map(|range| range.start).filter(|start| source.is_char_boundary(*start));
    let place = error.line().map(|line| (line, start.map_or(1, column)));
    let mut message = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    if let Some(io) = std::error::Error::source(error) {
        message = format!("{message}: {io}");
    }
    if is_go_template(source) {
        message += "; this looks like a template of consul-template, docs/templates.md says how to convert it";
    }
    TemplateError { source_name: source_name.into(), place, message: message.replace('\n', " ") }
}

/// Words that only Go's templates have.
fn is_go_template(source: &str) -> bool {
    let has_word = |tag: &str| {
        let inside = tag.trim_start_matches('-').trim_start();
        ["range ", "end}}", "end }}", "with ", "if ", "key \"", "else}}", "."]
            .iter()
            .any(|word| inside.starts_with(word))
    };
    source.split("{{").skip(1).any(has_word)
}

/// Refuses what is longer than a file may be.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > limits::MAX_RENDERED_BYTES {
            let megabytes = limits::MAX_RENDERED_BYTES >> 20;
            return Err(io::Error::other(format!("the file would be larger than {megabytes} MiB")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::template::{
        dependency::{Dependency, HealthFilter},
        fact,
    };

    /// By their answers; an empty one is a 404.
    fn facts<const COUNT: usize>(answers: [(Dependency, &str); COUNT]) -> Facts {
        let fact = |(dependency, body): (Dependency, &str)| {
            let fact = match body {
                "" => fact::absent(&dependency).unwrap(),
                body => fact::parse(&dependency, body.as_bytes()).unwrap(),
            };
            (dependency, Arc::new(fact))
        };
        answers.into_iter().map(fact).collect()
    }

    const BLUE: &str = r#"[{"Key":"k","Value":"Ymx1ZQ=="}]"#;
    const TWO: &str = r#"[
        {"Node":{"Node":"h1","Address":"192.0.2.1"},"Service":{"ID":"a","Service":"web","Address":"10.0.0.1","Port":80,"Tags":["blue","x"]}},
        {"Node":{"Node":"h2","Address":"192.0.2.2"},"Service":{"ID":"b","Service":"web","Port":81,"Tags":["green","x"]},
         "Checks":[{"CheckID":"c","Status":"critical"}]}]"#;

    fn key(name: &str) -> Dependency {
        Dependency::key(name).unwrap()
    }

    fn web(health: HealthFilter) -> Dependency {
        Dependency::service("web", None, health).unwrap()
    }

    fn text(source: &str, facts: &Facts) -> String {
        match render("t", source, facts).outcome {
            Outcome::Text(bytes) => String::from_utf8(bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn failure(source: &str, facts: &Facts) -> String {
        match render("t", source, facts).outcome {
            Outcome::Failed(error) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn everything_that_is_missing_is_found_in_one_rendering() {
        let source = "{{ key('a') }}{% for i in service('web') %}{{ i.id }}{% endfor %}{{ ls('p')|length }}";
        let rendering = render("t", source, &Facts::new());
        assert_eq!(rendering.outcome, Outcome::Incomplete);
        let expected = [web(HealthFilter::Passing), key("a"), Dependency::Prefix("p/".into())];
        assert_eq!(rendering.asked.missing, expected.into());
    }

    #[test]
    fn an_error_behind_a_stand_in_is_no_error() {
        let source = "{{ service('web')[0].id }}";
        assert_eq!(render("t", source, &Facts::new()).outcome, Outcome::Incomplete);
        let known = facts([(web(HealthFilter::Passing), "[]")]);
        assert!(matches!(render("t", source, &known).outcome, Outcome::Failed(_)));
    }

    #[test]
    fn a_key_that_is_not_set_is_an_error_with_its_name_and_place() {
        let unset = facts([(key("backend/current"), "")]);
        let said = failure("one\n  to {{ key('backend/current') }}\n", &unset);
        assert!(said.starts_with("t:2:"), "{said}");
        assert!(said.contains(r#"key "backend/current" is not set"#), "{said}");
        assert_eq!(
            text("{{ key_or('backend/current', 'blue') }} {{ key_exists('backend/current') }}", &unset),
            "blue False"
        );
    }

    #[test]
    fn keys_render_to_their_values() {
        let known = facts([(key("k"), BLUE)]);
        assert_eq!(
            text("{{ key('k') }}{{ key('/k') }}{{ key_or('k', 'x') }}{{ key_exists('k') }}", &known),
            "blueblueblueTrue"
        );
    }

    #[test]
    fn a_value_that_is_no_text_is_an_error_only_where_its_text_is_asked_for() {
        let known = facts([(key("k"), r#"[{"Key":"k","Value":"/w=="}]"#)]);
        assert!(failure("{{ key('k') }}", &known).contains("no text"));
        assert_eq!(text("{{ key_exists('k') }}", &known), "True");
    }

    #[test]
    fn ls_stays_in_the_folder_and_tree_goes_down() {
        let rows = r#"[{"Key":"p/","Value":null},{"Key":"p/b","Value":"Mg=="},{"Key":"p/a","Value":"MQ=="},
            {"Key":"p/d/c","Value":"Mw=="},{"Key":"p/d/","Value":null}]"#;
        let known = facts([(Dependency::Prefix("p/".into()), rows)]);
        let each = |call: &str| format!("{{% for k in {call} %}}{{{{ k.key }}}}={{{{ k.value }}}};{{% endfor %}}");
        assert_eq!(text(&each("ls('p')"), &known), "a=1;b=2;");
        assert_eq!(text(&each("tree('/p/')"), &known), "a=1;b=2;d/c=3;");
    }

    #[test]
    fn instances_are_grouped_by_each_of_their_tags() {
        let known = facts([(web(HealthFilter::Any), TWO)]);
        let source = "{% for tag, group in service('web', 'any') | by_tag | items %}{{ tag }}:{% for i in group %}{{ i.id }}@{{ i.endpoint }},{% endfor %};{% endfor %}";
        assert_eq!(text(source, &known), "blue:a@10.0.0.1:80,;green:b@192.0.2.2:81,;x:a@10.0.0.1:80,b@192.0.2.2:81,;");
        assert_eq!(text("{% for i in service('web', 'critical') %}{{ i.id }}{% endfor %}", &known), "b");
    }

    #[test]
    fn a_misspelt_word_is_an_error_and_no_empty_text() {
        let known = facts([(web(HealthFilter::Any), TWO)]);
        assert!(failure("{% for i in service('web', 'any') %}{{ i.adress }}{% endfor %}", &known).starts_with("t:1:"));
        assert!(failure("{{ service('web', 'healthy') }}", &known).contains("passing, any"));
        assert!(failure("{{ service('web', tga='x') }}", &known).contains("tga"));
        assert!(failure("\n\n {{ kee('k') }}", &known).starts_with("t:3:"));
    }

    #[test]
    fn a_syntax_error_names_line_and_column_and_a_template_of_consul_template_is_recognised() {
        let said = check_syntax("t", "ok\nbad {% for %}").unwrap_err();
        assert_eq!(said.place.unwrap().0, 2, "{said}");
        assert!(!said.to_string().contains("consul-template"), "{said}");
        let go = r#"{{range $tag, $services := service "web" | byTag}}{{end}}"#;
        assert!(check_syntax("t", go).unwrap_err().to_string().contains("how to convert"));
    }

    #[test]
    fn a_loop_without_end_and_a_file_without_end_are_stopped() {
        let nested = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        assert!(failure(nested, &Facts::new()).contains("fuel"));
        let wide = "{% for a in range(9999) %}{{ 'xxxxxxxxxx' * 1000 }}{% endfor %}";
        assert!(failure(wide, &Facts::new()).contains("larger than 16 MiB"));
    }

    #[test]
    fn blocks_leave_no_empty_lines_and_nothing_is_escaped() {
        assert_eq!(text("a\n  {% if true %}\n  {{ '<b>' }}\n  {% endif %}\nc\n", &Facts::new()), "a\n  <b>\nc\n");
        assert_eq!(text("{{ 'a b\nc/d' | safe_name }}", &Facts::new()), "a_b_c_d");
    }

    #[test]
    fn the_environment_is_read_and_what_it_lacks_is_an_error() {
        assert_eq!(text("{{ env('WEAVED_NO_SUCH', 'x') }}", &Facts::new()), "x");
        assert!(failure("{{ env('WEAVED_NO_SUCH') }}", &Facts::new()).contains("WEAVED_NO_SUCH"));
    }
}
