//! JSON whose keys may be in any case: Go's decoder does not care, and clients and files rely on it.
//!
//! Keys are lowered within the text, byte by byte, before it is parsed, so that an error still names the line and column of
//! the original, and what is no JSON is left to the parser.

/// The same text with its keys in lower case; each byte stays in its place. Keys within the objects called `free`, given in
/// lower case, stay as they are.
pub fn lower_keys(text: &[u8], free: &[&str]) -> Vec<u8> {
    let mut bytes = text.to_vec();
    let mut keys = KeyFinder::default();
    for index in 0..bytes.len() {
        if let Some(range) = keys.step(&bytes, index, free) {
            bytes[range].make_ascii_lowercase();
        }
    }
    bytes
}

/// Walks over JSON, and over what only looks like it, and finds the keys whose case does not matter.
#[derive(Default)]
struct KeyFinder {
    /// For each container that is open: whether its keys are its owner's.
    free: Vec<bool>,
    string_start: Option<usize>,
    is_escaped: bool,
    last_string: std::ops::Range<usize>,
    last_key: std::ops::Range<usize>,
}

impl KeyFinder {
    fn step(&mut self, bytes: &[u8], index: usize, free: &[&str]) -> Option<std::ops::Range<usize>> {
        if let Some(start) = self.string_start {
            match bytes[index] {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => {
                    self.last_string = start..index;
                    self.string_start = None;
                }
                _ => {}
            }
            return None;
        }
        match bytes[index] {
            b'"' => self.string_start = Some(index + 1),
            b'{' | b'[' => {
                let key = &bytes[self.last_key.clone()];
                let is_free = free.iter().any(|name| key.eq_ignore_ascii_case(name.as_bytes()));
                self.free.push(is_free || self.free.last() == Some(&true));
                self.last_key = 0..0;
            }
            b'}' | b']' => {
                self.free.pop();
                self.last_key = 0..0;
            }
            b',' => self.last_key = 0..0,
            b':' => {
                self.last_key = self.last_string.clone();
                return (self.free.last() == Some(&false)).then(|| self.last_string.clone());
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lowered(text: &str) -> String {
        String::from_utf8(lower_keys(text.as_bytes(), &["meta"])).unwrap()
    }

    #[test]
    fn keys_are_lowered_and_values_and_free_keys_are_not() {
        for (text, expected) in [
            (r#"{"Name":"Web","TAGS":["A","B"]}"#, r#"{"name":"Web","tags":["A","B"]}"#),
            (r#"{"Meta":{"Version":{"Deep":1}},"Port":1}"#, r#"{"meta":{"Version":{"Deep":1}},"port":1}"#),
            (r#"[{"A":"x\":\"Y"},{"B":null}]"#, r#"[{"a":"x\":\"Y"},{"b":null}]"#),
        ] {
            assert_eq!(lowered(text), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_it_is_nothing_moves(text in r#"[\[\]{}:,"\\aA1é ]{0,60}"#) {
            proptest::prop_assert_eq!(lowered(&text).len(), text.len());
        }
    }
}
