// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The configuration of a kernel.

use std::collections::HashMap;

/// Options that are set, without `CONFIG_`.
#[derive(Debug, Default)]
pub(crate) struct Config(HashMap<String, String>);

impl Config {
    pub(crate) fn parse(text: &str) -> Self {
        let options = text.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
            Some((name.to_owned(), value.trim().to_owned()))
        });
        Self(options.collect())
    }

    /// Whether an option is built in.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| value == "y")
    }

    /// Base two logarithm of the page size, if the machine has several.
    pub(crate) fn page_shift(&self) -> Option<u32> {
        let known = [
            ("ARM64_4K_PAGES", 12),
            ("ARM64_16K_PAGES", 14),
            ("ARM64_64K_PAGES", 16),
        ];
        let mut known = known.into_iter();
        known
            .find(|(name, _)| self.has(name))
            .map(|(_, shift)| shift)
    }
}

/// The command line of a kernel.
#[derive(Debug)]
pub(crate) struct Cmdline<'a>(pub(crate) &'a str);

impl<'a> Cmdline<'a> {
    fn all(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        // What follows is for user space.
        let words = self.0.split_whitespace().take_while(|word| *word != "--");
        words.filter_map(|word| word.split_once('='))
    }

    /// Whether something is on: the last setting wins.
    pub(crate) fn is_on(&self, name: &str, default: bool) -> bool {
        let last = self.all().filter(|(key, _)| *key == name).last();
        last.map_or(default, |(_, value)| {
            let value = value.to_ascii_lowercase();
            value.starts_with(['y', 't', '1', 'e']) || value.starts_with("on")
        })
    }

    /// How many huge pages of a size the kernel is asked for.
    pub(crate) fn huge_pages(&self, wanted: u64) -> u64 {
        let default = self.all().filter(|(key, _)| *key == "default_hugepagesz");
        let default = default.last().and_then(|(_, value)| bytes(value));
        let (mut size, mut count) = (default.unwrap_or(DEFAULT), 0);
        for (key, value) in self.all() {
            match key {
                "hugepagesz" => size = bytes(value).unwrap_or(0),
                "hugepages" if size == wanted => count = pages(value),
                _ => {}
            }
        }
        count
    }
}

/// The size of huge pages that most machines have if nothing else is said.
const DEFAULT: u64 = 2 << 20;

/// A number of huge pages, or one for each node.
fn pages(value: &str) -> u64 {
    let nodes = value.split(',').filter_map(|part| {
        let count = part.split_once(':').map_or(part, |(_, count)| count);
        count.parse().ok()
    });
    nodes.fold(0, u64::saturating_add)
}

/// A size with K, M or G.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..)?.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found() {
        let config = Config::parse(
            "# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=m\nCONFIG_ARM64_16K_PAGES=y\n",
        );
        assert!(config.has("B") && !config.has("A") && !config.has("C"));
        assert_eq!(config.page_shift(), Some(14));
    }

    #[test]
    fn the_last_setting_counts() {
        let line = Cmdline("kho=off quiet kho=on liveupdate=1 liveupdate=off -- kho=off");
        assert!(line.is_on("kho", false));
        assert!(!line.is_on("liveupdate", true));
        assert!(line.is_on("other", true) && !line.is_on("other", false));
    }

    #[test]
    fn huge_pages_are_counted_by_size() {
        let line =
            Cmdline("hugepages=7 hugepagesz=1G hugepages=2 hugepagesz=2M hugepages=0:3,1:13");
        assert_eq!(line.huge_pages(2 << 20), 16);
        assert_eq!(line.huge_pages(1 << 30), 2);
        let line = Cmdline("default_hugepagesz=1G hugepages=5");
        assert_eq!((line.huge_pages(1 << 30), line.huge_pages(2 << 20)), (5, 0));
        assert_eq!(Cmdline("hugepages=x").huge_pages(2 << 20), 0);
    }
}
