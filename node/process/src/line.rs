//! Lines of bounded length from a blocking reader. Its one idea: no peer decides how much memory a line takes.

use std::io::{self, BufRead};

/// Reads one line, without its newline, into `line`. `Ok(None)`: the other side closed, perhaps within a line.
///
/// # Errors
/// `InvalidData` when a line is longer than `most` bytes (with its newline) or not UTF-8; else what the reader says.
pub(crate) fn read_line(reader: &mut impl BufRead, most: usize) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    loop {
        let available = match reader.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if available.is_empty() {
            return Ok(None);
        }
        let newline = available.iter().position(|byte| *byte == b'\n');
        let end = newline.unwrap_or(available.len());
        if line.len() + end >= most {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a line is longer than {most} bytes")));
        }
        line.extend_from_slice(&available[..end]);
        let used = newline.map_or(end, |at| at + 1);
        reader.consume(used);
        if newline.is_some() {
            let text = String::from_utf8(line).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a line is not UTF-8"))?;
            return Ok(Some(text));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::BufReader;

    #[test]
    fn lines_come_whole_whatever_the_buffer_and_a_last_half_is_dropped() {
        let mut reader = BufReader::with_capacity(3, &b"one\n\ntwo and more\nhal"[..]);
        assert_eq!(read_line(&mut reader, 100).unwrap().as_deref(), Some("one"));
        assert_eq!(read_line(&mut reader, 100).unwrap().as_deref(), Some(""));
        assert_eq!(read_line(&mut reader, 100).unwrap().as_deref(), Some("two and more"));
        assert_eq!(read_line(&mut reader, 100).unwrap(), None);
    }

    #[test]
    fn a_line_over_the_limit_is_an_error_and_one_at_the_limit_is_not() {
        assert_eq!(read_line(&mut &b"123\n"[..], 4).unwrap().as_deref(), Some("123"));
        assert!(read_line(&mut &b"1234\n"[..], 4).is_err());
        assert!(read_line(&mut &b"123456789"[..], 4).is_err());
    }
}
