// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One line of JSON for the host.

use std::fmt::Write;

/// A record under construction; each begins with its kind and the clocks.
#[derive(Debug)]
pub struct Record(String);

impl Record {
    /// Begins a record of one kind, stamped with the time.
    pub fn new(event: &str) -> Self {
        let (ticks, hz) = crate::ticks();

        Self(String::from("{"))
            .text("ev", event)
            .number("up", crate::uptime_us())
            .number("ticks", ticks)
            .number("hz", hz)
    }

    fn key(&mut self, key: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        // Writing to a String cannot fail.
        let _ = write!(self.0, "\"{key}\":");
    }

    /// Adds a number.
    pub fn number(mut self, key: &str, value: u64) -> Self {
        self.key(key);
        let _ = write!(self.0, "{value}");
        self
    }

    /// Adds a string, escaped.
    pub fn text(mut self, key: &str, value: &str) -> Self {
        self.key(key);
        self.0.push('"');
        for c in value.chars() {
            match c {
                '"' | '\\' => {
                    self.0.push('\\');
                    self.0.push(c);
                }
                c if u32::from(c) < 0x20 => {
                    let _ = write!(self.0, "\\u{:04x}", u32::from(c));
                }
                c => self.0.push(c),
            }
        }
        self.0.push('"');
        self
    }

    /// The finished line, with its newline.
    pub fn line(mut self) -> String {
        self.0.push_str("}\n");
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        let line = Record(String::from("{"))
            .text("a", "q\" b\\ n\n")
            .number("n", 7)
            .line();

        assert_eq!(line, "{\"a\":\"q\\\" b\\\\ n\\u000a\",\"n\":7}\n");
    }
}
