//! Files of the operator, read whole unless they are longer than anybody writes them. Control reads its own by the same means.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// Its bytes. One that is longer than `max_bytes` is `InvalidData`.
pub fn read(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is longer than {max_bytes} bytes")));
    }
    Ok(bytes)
}

/// Its text. What is none is `InvalidData` as well.
pub fn read_text(path: &Path, max_bytes: u64) -> io::Result<String> {
    let text = String::from_utf8(read(path, max_bytes)?);
    text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text in UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_or_no_text_is_invalid_and_what_is_not_there_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let kind = |outcome: io::Result<String>| outcome.unwrap_err().kind();
        assert_eq!(kind(read_text(&path, 4)), io::ErrorKind::NotFound);
        std::fs::write(&path, "four").unwrap();
        assert_eq!(read_text(&path, 4).unwrap(), "four");
        assert_eq!(kind(read_text(&path, 3)), io::ErrorKind::InvalidData);
        // A limit in the middle of a character.
        std::fs::write(&path, "abé").unwrap();
        assert_eq!(read_text(&path, 2).unwrap_err().to_string(), "it is longer than 2 bytes");
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(read(&path, 2).unwrap(), [0xff, 0xfe]);
        assert_eq!(kind(read_text(&path, 2)), io::ErrorKind::InvalidData);
    }
}
