// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `luoctl status`: what the loaded modules hold.
//!
//! It asks the module `luo_rs` and never opens `/dev/liveupdate`: the first open of that device takes
//! over all sessions, and those whose modules are not loaded yet would be lost.

use anyhow::{
    bail,
    Context as _,
    Result, //
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::File,
    io::{
        self,
        ErrorKind,
        Read as _, //
    },
    path::{
        Path,
        PathBuf, //
    }, //
};

use crate::{
    output::{
        human,
        print, //
    },
    reason::reason, //
};

const STATUS: &str = "/dev/luo_status";
/// The version of the text that this program understands.
const VERSION: u32 = 1;
/// No host has this much to tell.
const MAX: u64 = 16 << 20;

const DETAILS: &str = "\
This only reads /dev/luo_status, at any time and without side effects. It fails
with the reason if no handler is there.

Examples:
  luoctl status
  luoctl status --json | jq '.files[] | select(.state == \"preserved\")'
  luoctl status --json | jq '.huge_pages[] | select(.size == 2097152).preserved'";

/// Show handlers, preserved files and huge pages, and memory that waits for its release.
#[derive(Debug, clap::Args)]
#[command(after_help = DETAILS)]
pub(crate) struct Args {
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Read a saved copy instead of the running kernel's state.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

/// A line of the kernel's text: its words of the form `key=value`. Keys that this program does not
/// know are kept, so that newer modules can add some.
pub(crate) type Record = BTreeMap<String, Value>;

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Value {
    Number(u64),
    Text(String),
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Status {
    version: u32,
    handlers: Vec<Record>,
    pub(crate) files: Vec<Record>,
    orphans: Vec<Record>,
    /// How many of each size are in the files.
    pub(crate) huge_pages: Vec<Record>,
}

impl Status {
    /// Whether there is a handler that writes. Beside the kernel's own, that of our second format only reads.
    fn can_preserve(&self) -> bool {
        let reader = Value::Text("rs-memfd-v1".into());
        let mut handlers = self.handlers.iter();
        handlers.any(|handler| handler.get("compatible") != Some(&reader))
    }
}

impl Status {
    /// Reads it below the directory that the system is in.
    pub(crate) fn of(root: &Path) -> Result<Self> {
        let path = root.join(STATUS.trim_start_matches('/'));
        parse(&read(&path).map_err(explain)?)
    }
}

/// A word of a record.
pub(crate) fn text<'a>(record: &'a Record, key: &str) -> &'a str {
    match record.get(key) {
        Some(Value::Text(text)) => text,
        _ => "?",
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let text = match &args.from {
        Some(path) => read(path).with_context(|| format!("cannot read {}", path.display()))?,
        None => read(Path::new(STATUS)).map_err(explain)?,
    };
    let status = parse(&text)?;
    print(&if args.json {
        serde_json::to_string_pretty(&status)? + "\n"
    } else {
        tables(&status)
    })?;
    if !status.can_preserve() && args.from.is_none() {
        bail!("nothing can be preserved: {}", reason(Path::new("/")));
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Says what to do if the status cannot be read.
fn explain(error: io::Error) -> anyhow::Error {
    let advice = match error.kind() {
        ErrorKind::NotFound if Path::new("/sys/module/luo_rs").exists() => {
            "the module luo_rs is loaded but /dev/luo_status is not there; is /dev a devtmpfs?"
        }
        ErrorKind::NotFound => return anyhow::Error::new(error).context(reason(Path::new("/"))),
        ErrorKind::PermissionDenied => "only root may read /dev/luo_status; run this as root",
        _ => "cannot read /dev/luo_status",
    };
    anyhow::Error::new(error).context(advice)
}

fn parse(text: &str) -> Result<Status> {
    let mut lines = text.lines();
    let version = lines
        .next()
        .and_then(|line| line.strip_prefix("luo_rs "))
        .and_then(|version| version.parse().ok())
        .context("this is not the status of luo_rs")?;
    if version != VERSION {
        bail!(
            "the loaded luo_rs reports its status in version {version}, this luoctl knows version \
             {VERSION}; install the luoctl that came with the modules"
        );
    }

    let mut status = Status {
        version,
        ..Default::default()
    };
    for line in lines.filter(|line| !line.is_empty()) {
        let mut words = line.split(' ');
        let list = match words.next() {
            Some("handler") => &mut status.handlers,
            Some("file") => &mut status.files,
            Some("orphan") => &mut status.orphans,
            // Newer modules may add kinds of records within a version.
            _ => continue,
        };
        list.push(
            words
                .filter_map(|word| word.split_once('='))
                .map(|(key, text)| (key.to_owned(), value(text)))
                .collect(),
        );
    }
    status.huge_pages = huge_pages(&status.files);
    Ok(status)
}

pub(crate) fn number(record: &Record, key: &str) -> Option<u64> {
    match record.get(key)? {
        Value::Number(number) => Some(*number),
        Value::Text(_) => None,
    }
}

/// Counts the huge pages of files, by size: those for the next kernel and those of the previous one.
fn huge_pages(files: &[Record]) -> Vec<Record> {
    let mut sizes: BTreeMap<u64, [u64; 3]> = BTreeMap::new();
    for file in files {
        let (Some(size), Some(pages)) = (number(file, "huge_page"), number(file, "huge_pages"))
        else {
            continue;
        };
        let [preserved, incoming, sum] = sizes.entry(size).or_default();
        let count = match file.get("state") {
            Some(Value::Text(state)) if state == "retrieved" => incoming,
            _ => preserved,
        };
        *count = count.saturating_add(pages);
        *sum = sum.saturating_add(pages.saturating_mul(size));
    }
    let record = |(size, [preserved, incoming, bytes]): (u64, [u64; 3])| {
        let numbers = [
            ("size", size),
            ("preserved", preserved),
            ("incoming", incoming),
            ("bytes", bytes),
        ];
        Record::from(numbers.map(|(key, number)| (key.to_owned(), Value::Number(number))))
    };
    sizes.into_iter().map(record).collect()
}

fn value(text: &str) -> Value {
    match text.parse() {
        Ok(number) => Value::Number(number),
        Err(_) => Value::Text(text.to_owned()),
    }
}

fn tables(status: &Status) -> String {
    let mut out = String::new();
    if status.handlers.is_empty() {
        out += "No handlers are loaded.\n";
    } else {
        let columns = ["compatible", "module", "preserved", "incoming", "bytes"];
        table(&mut out, "Handlers", &columns, &status.handlers);
    }
    if !status.files.is_empty() {
        let columns = ["compatible", "state", "id", "bytes"];
        table(&mut out, "Files", &columns, &status.files);
    }
    if !status.huge_pages.is_empty() {
        let columns = ["size", "preserved", "incoming", "bytes"];
        table(&mut out, "Huge pages", &columns, &status.huge_pages);
    }
    if !status.orphans.is_empty() {
        let title = "Finished, but not released yet";
        table(&mut out, title, &["compatible", "bytes"], &status.orphans);
    }
    out
}

fn table(out: &mut String, title: &str, columns: &[&str], records: &[Record]) {
    let header = columns.iter().map(|column| (*column).to_owned()).collect();
    let mut rows: Vec<Vec<String>> = vec![header];
    for record in records {
        rows.push(columns.iter().map(|column| cell(record, column)).collect());
    }
    let mut widths = vec![0; columns.len()];
    for row in &rows {
        for (cell, width) in row.iter().zip(&mut widths) {
            *width = cell.chars().count().max(*width);
        }
    }

    out.push_str(title);
    out.push('\n');
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a string does not fail.
            let _ = write!(line, "  {cell:<width$}");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

fn cell(record: &Record, column: &str) -> String {
    match record.get(column) {
        Some(Value::Number(bytes)) if ["bytes", "size"].contains(&column) => human(*bytes),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Text(text)) => text.escape_debug().to_string(),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
luo_rs 1
handler compatible=memfd-v2 module=luo_memfd preserved=1 incoming=0 bytes=536870912
file compatible=memfd-v2 state=frozen id=1042 bytes=536870912 new=key
orphan compatible=memfd-v2 bytes=4096
weather temperature=20
";

    #[test]
    fn records_are_sorted_by_kind_and_keep_unknown_keys() {
        let status = parse(TEXT).unwrap();
        assert_eq!(status.handlers.len(), 1);
        assert_eq!(status.files[0]["id"], Value::Number(1042));
        assert_eq!(status.files[0]["new"], Value::Text("key".to_owned()));
        assert_eq!(status.orphans[0]["bytes"], Value::Number(4096));
    }

    #[test]
    fn tables_are_aligned() {
        let expected = "\
Handlers
  compatible  module     preserved  incoming  bytes
  memfd-v2    luo_memfd  1          0         512.0 MiB
Files
  compatible  state   id    bytes
  memfd-v2    frozen  1042  512.0 MiB
Finished, but not released yet
  compatible  bytes
  memfd-v2    4.0 KiB
";
        assert_eq!(tables(&parse(TEXT).unwrap()), expected);
    }

    #[test]
    fn huge_pages_are_counted_by_size_and_direction() {
        let text = "\
luo_rs 1
handler compatible=rs-hugetlb-v1 module=luo_hugetlb preserved=3 incoming=2 bytes=1
file compatible=rs-hugetlb-v1 state=preserved id=1 bytes=2097153 huge_page=2097152 huge_pages=2
file compatible=rs-hugetlb-v1 state=frozen id=2 bytes=4194304 huge_page=2097152 huge_pages=2
file compatible=rs-hugetlb-v1 state=retrieved id=3 bytes=2097152 huge_page=2097152 huge_pages=1
file compatible=rs-hugetlb-v1 state=preserved id=4 bytes=1073741824 huge_page=1073741824 huge_pages=1
file compatible=rs-hugetlb-v1 state=retrieved id=5 bytes=0 huge_page=65536 huge_pages=0
file compatible=memfd-v2 state=preserved id=6 bytes=4096
file compatible=rs-hugetlb-v1 state=preserved id=7 bytes=4096 huge_page=2097152 huge_pages=some
";
        let status = parse(text).unwrap();
        let counts: Vec<_> = status
            .huge_pages
            .iter()
            .map(|size| ["size", "preserved", "incoming"].map(|key| number(size, key).unwrap()))
            .collect();
        assert_eq!(counts, [[65536, 0, 0], [2 << 20, 4, 1], [1 << 30, 1, 0]]);
        let expected = "\
Huge pages
  size      preserved  incoming  bytes
  64.0 KiB  0          0         0 B
  2.0 MiB   4          1         10.0 MiB
  1.0 GiB   1          0         1.0 GiB
";
        let tables = tables(&status);
        assert!(tables.ends_with(expected), "{tables}");
    }

    #[test]
    fn nothing_loaded_is_said() {
        assert!(tables(&parse("luo_rs 1\n").unwrap()).contains("No handlers"));
    }

    #[test]
    fn other_versions_and_other_texts_are_refused() {
        let error = parse("luo_rs 2\n").unwrap_err().to_string();
        assert!(error.contains("version 2"), "{error}");
        assert!(parse("").is_err());
        assert!(parse("hello\n").is_err());
        assert!(parse("luo_rs x\n").is_err());
    }
}
