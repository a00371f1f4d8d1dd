// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The result channel: a virtio-serial port on which every record is acknowledged by the host.
//!
//! The acknowledgement matters before a jump: the device is reset then, and what the host has not
//! taken by that time is lost.

use std::fs::{
    self,
    File,
    OpenOptions, //
};
use std::io::{
    self,
    BufRead,
    BufReader,
    Read,
    Write, //
};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{
    SocketAddr,
    UnixListener,
    UnixStream, //
};
use std::path::PathBuf;
use std::sync::{
    Arc,
    Mutex,
    PoisonError, //
};
use std::thread;
use std::time::Duration;

use lu_init::record::Record;
use lu_init::SOCKET;

const PORT: &str = "lu.result";

/// The port; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Channel(Arc<Mutex<File>>);

impl Channel {
    /// Opens the port, waiting for its device: names arrive some time after the port itself.
    pub(crate) fn open() -> io::Result<Self> {
        for _ in 0..1000 {
            if let Some(path) = find()? {
                let port = OpenOptions::new().read(true).write(true).open(path)?;
                return Ok(Self(Arc::new(Mutex::new(port))));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("no virtio-serial port named {PORT}"),
        ))
    }

    /// Sends a record and waits until the host has it.
    pub(crate) fn send(&self, record: Record) -> io::Result<()> {
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);

        port.write_all(record.line().as_bytes())?;
        loop {
            let mut byte = [0];
            if port.read(&mut byte)? == 1 {
                return Ok(());
            }
            // The host end is closed, or not open yet.
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Passes on the marks of other processes for as long as this kernel lives.
    pub(crate) fn serve(&self) -> io::Result<()> {
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(SOCKET)?)?;
        let channel = self.clone();

        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Err(error) = channel.relay(&stream) {
                    println!("lu-init: a mark was lost: {error}");
                }
            }
        });
        Ok(())
    }

    fn relay(&self, mut stream: &UnixStream) -> io::Result<()> {
        let mut line = String::new();

        BufReader::new(stream).read_line(&mut line)?;
        let (word, rest) = line
            .trim_end()
            .split_once(' ')
            .unwrap_or((line.trim_end(), ""));
        let record = match word {
            "mark" => Record::new("mark").text("name", rest),
            "jump" => Record::new("jump").text("by", "lu-reboot"),
            "refused" => Record::new("refused")
                .text("by", "lu-reboot")
                .number("errno", rest.parse().unwrap_or(0)),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        self.send(record)?;
        stream.write_all(b"ok\n")
    }
}

fn find() -> io::Result<Option<PathBuf>> {
    let Ok(ports) = fs::read_dir("/sys/class/virtio-ports") else {
        return Ok(None);
    };

    for port in ports {
        let port = port?;
        let name = fs::read_to_string(port.path().join("name")).unwrap_or_default();
        let device = PathBuf::from("/dev").join(port.file_name());
        if name.trim_end() == PORT && device.exists() {
            return Ok(Some(device));
        }
    }
    Ok(None)
}
