// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Server and client over real sockets; memfds play the sessions.

use super::{
    super::{
        sessions::MAX_SESSIONS,
        wire::{
            self,
            Reply,
            Request, //
        },
        Client,
        Held, //
    },
    connection::MAX_CLIENTS,
    place::socket,
    *,
};
use rustix::{
    fs::{
        chmod,
        fstat,
        lstat,
        memfd_create,
        MemfdFlags,
        Mode, //
    },
    net::{
        bind,
        connect,
        SendFlags,
        SocketAddrUnix, //
    }, //
};
use std::{
    os::unix::fs::symlink,
    path::PathBuf,
    sync::{
        atomic::{
            AtomicBool,
            Ordering, //
        },
        Arc, //
    },
    thread::{
        self,
        JoinHandle, //
    }, //
};

/// Creates what it is asked for; `busy` makes finish fail, `taken` is a device that another has open.
#[derive(Clone, Default)]
struct Fake {
    busy: Arc<AtomicBool>,
    taken: Arc<AtomicBool>,
}

impl Backend for Fake {
    fn create(&mut self, name: &SessionName) -> crate::Result<OwnedFd> {
        if self.taken.load(Ordering::Relaxed) {
            let waited = Duration::ZERO;
            return Err(crate::Error::Busy { waited });
        }
        Ok(memfd_create(name.as_str(), MemfdFlags::CLOEXEC).unwrap())
    }

    fn retrieve(&mut self, name: &SessionName) -> crate::Result<OwnedFd> {
        if name.as_str() == "missing" {
            return Err(crate::Error::RetrieveSession {
                name: name.clone(),
                source: Errno::NOENT,
            });
        }
        self.create(name)
    }

    fn finish(&mut self, session: OwnedFd) -> std::result::Result<(), (OwnedFd, crate::Error)> {
        if self.busy.load(Ordering::Relaxed) {
            let source = Errno::BUSY;
            return Err((session, crate::Error::Finish { source }));
        }
        Ok(())
    }
}

/// A server on a thread of its own, which ends when this is dropped.
struct Running {
    dir: tempfile::TempDir,
    fake: Fake,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start() -> Self {
        Self::start_with(IDLE)
    }

    fn start_with(idle: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let fake = Fake::default();
        let backend = Box::new(fake.clone());
        let mut server = Server::with(&dir.path().join("s"), None, backend).unwrap();
        server.idle = idle;
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                server.step(Some(Duration::from_millis(5))).unwrap();
            }
        });
        Self {
            dir,
            fake,
            stop,
            thread: Some(thread),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    fn client(&self) -> Client {
        Client::connect(&self.path()).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn name(text: &str) -> SessionName {
    SessionName::new(text).unwrap()
}

fn request(client: &Client, op: fn(String) -> Request, name: &str) -> Result<(Kind, OwnedFd)> {
    client.session(op(name.into()))
}

fn create(name: String) -> Request {
    Request::Create { name }
}

fn retrieve(name: String) -> Request {
    Request::Retrieve { name }
}

fn get(name: String) -> Request {
    Request::Get { name }
}

fn errno<T: fmt::Debug>(result: Result<T>) -> Errno {
    match result {
        Err(Error::Refused { errno, .. }) => Errno::from_raw_os_error(errno.unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_session_outlives_the_client_that_created_it() {
    let server = Running::start();
    let first = server.client();
    let (kind, fd) = request(&first, create, "vm").unwrap();
    let inode = fstat(&fd).unwrap().st_ino;
    assert_eq!(kind, Kind::Outgoing);
    drop((first, fd));

    let (kind, fd) = request(&server.client(), get, "vm").unwrap();
    assert_eq!(kind, Kind::Outgoing);
    assert_eq!(fstat(&fd).unwrap().st_ino, inode);
}

#[test]
fn what_the_server_sends_is_checked_to_be_a_session() {
    let server = Running::start();
    let created = server.client().create(&name("vm"));
    assert!(matches!(
        created,
        Err(Error::Session(crate::Error::NotASession { .. }))
    ));
    let held: Result<Held> = server.client().get(&name("vm"));
    assert!(held.is_err());
}

#[test]
fn refusals_carry_the_reason() {
    let server = Running::start();
    let client = server.client();
    request(&client, create, "vm").unwrap();
    assert_eq!(errno(request(&client, create, "vm")), Errno::EXIST);
    assert_eq!(errno(request(&client, get, "other")), Errno::NOENT);
    assert_eq!(errno(request(&client, retrieve, "missing")), Errno::NOENT);
    assert_eq!(errno(request(&client, create, "")), Errno::INVAL);
    let long = "x".repeat(64);
    assert_eq!(errno(request(&client, create, &long)), Errno::INVAL);
    assert_eq!(errno(client.release(&name("other"))), Errno::NOENT);
}

#[test]
fn each_kind_ends_in_its_own_way() {
    let server = Running::start();
    let client = server.client();
    request(&client, create, "out").unwrap();
    request(&client, retrieve, "in").unwrap();
    assert_eq!(errno(client.finish(&name("out"))), Errno::INVAL);
    assert_eq!(errno(client.release(&name("in"))), Errno::INVAL);

    server.fake.busy.store(true, Ordering::Relaxed);
    assert_eq!(errno(client.finish(&name("in"))), Errno::BUSY);
    let both = [(name("in"), Kind::Incoming), (name("out"), Kind::Outgoing)];
    assert_eq!(client.list().unwrap(), both);

    server.fake.busy.store(false, Ordering::Relaxed);
    client.finish(&name("in")).unwrap();
    client.release(&name("out")).unwrap();
    assert_eq!(client.list().unwrap(), []);
}

#[test]
fn a_list_of_any_length_arrives() {
    let server = Running::start();
    let client = server.client();
    // Control characters take six bytes each in JSON.
    let names: Vec<_> = (0..MAX_SESSIONS)
        .map(|i| format!("{i:03}{}", "\u{1}".repeat(60)))
        .collect();
    for name in &names {
        request(&client, create, name).unwrap();
    }
    let listed = client.list().unwrap();
    assert!(listed.iter().map(|(name, _)| name.as_str()).eq(&names));
    assert_eq!(errno(request(&client, create, "more")), Errno::NOSPC);
}

#[test]
fn nonsense_is_answered_and_too_much_of_it_disconnects() {
    let server = Running::start();
    let address = SocketAddrUnix::new(server.path()).unwrap();
    let raw = socket().unwrap();
    connect(&raw, &address).unwrap();

    wire::send(&raw, b"what?", None, SendFlags::empty()).unwrap();
    let (packet, _) = wire::receive(&raw).unwrap().unwrap();
    assert!(matches!(
        wire::decode(&packet).unwrap(),
        Reply::Error { .. }
    ));

    wire::send(&raw, &[b' '; wire::MAX + 1], None, SendFlags::empty()).unwrap();
    assert!(wire::receive(&raw).unwrap().is_none());
    // Others are not disturbed.
    assert_eq!(server.client().list().unwrap(), []);
}

#[test]
fn too_many_clients_are_turned_away() {
    let server = Running::start();
    let clients: Vec<_> = (0..MAX_CLIENTS).map(|_| server.client()).collect();
    for client in &clients {
        client.list().unwrap();
    }
    assert_eq!(errno(server.client().list()), Errno::AGAIN);
    drop(clients);
    // Their places are free again once the server has noticed.
    while server.client().list().is_err() {
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_client_that_says_nothing_makes_room() {
    let server = Running::start_with(Duration::from_millis(1));
    let clients: Vec<_> = (0..MAX_CLIENTS).map(|_| server.client()).collect();
    for client in &clients {
        client.list().unwrap();
    }
    thread::sleep(Duration::from_millis(5));
    server.client().list().unwrap();
    assert!(matches!(clients[0].list(), Err(Error::Closed)));
    clients[1].list().unwrap();
}

#[test]
fn one_who_waits_for_the_device_keeps_nobody_waiting() {
    let server = Running::start();
    server.fake.taken.store(true, Ordering::Relaxed);
    let waiting = server.client();
    let waiting = thread::spawn(move || request(&waiting, create, "vm"));
    let other = server.client();
    thread::sleep(Duration::from_millis(50));
    let start = std::time::Instant::now();
    assert_eq!(other.list().unwrap(), []);
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(!waiting.is_finished());
    server.fake.taken.store(false, Ordering::Relaxed);
    waiting.join().unwrap().unwrap();
    assert_eq!(other.list().unwrap().len(), 1);

    server.fake.taken.store(true, Ordering::Relaxed);
    assert_eq!(errno(request(&other, create, "never")), Errno::BUSY);
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    for mode in [0o770, 0o707, 0o1777] {
        chmod(dir.path(), Mode::from_raw_mode(mode)).unwrap();
        let refused = Server::bind(&path, None);
        assert!(matches!(refused, Err(Error::Directory { .. })), "{mode:o}");
        assert!(!path.exists());
    }
    chmod(dir.path(), Mode::from_raw_mode(0o755)).unwrap();
    drop(Server::bind(&path, None).unwrap());
}

#[test]
fn the_directory_of_another_user_is_refused() {
    if geteuid().is_root() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(dir.path(), Some(65534), None).unwrap();
        let refused = Server::bind(&dir.path().join("s"), Some(65534));
        assert!(matches!(refused, Err(Error::Directory { .. })));
    }
}

#[test]
fn a_link_in_the_place_of_the_socket_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, victim) = (dir.path().join("s"), dir.path().join("victim"));
    std::fs::write(&victim, "mine").unwrap();
    let before = lstat(&victim).unwrap();
    let mut place = Place::open(&path).unwrap();
    symlink(&victim, &path).unwrap();
    assert!(matches!(place.bind(None), Err(Error::Listen { .. })));
    std::fs::remove_file(&path).unwrap();

    // The end of a server leaves alone what somebody else has put there.
    let server = Server::bind(&path, None).unwrap();
    std::fs::remove_file(&path).unwrap();
    symlink(&victim, &path).unwrap();
    drop(server);
    assert!(path.is_symlink());
    let after = lstat(&victim).unwrap();
    assert_eq!(
        (after.st_mode, after.st_uid),
        (before.st_mode, before.st_uid)
    );
}

#[test]
fn the_socket_is_private_and_stale_ones_are_replaced() {
    let server = Running::start();
    let path = server.path();
    assert_eq!(lstat(&path).unwrap().st_mode & 0o777, 0o600);
    assert!(matches!(
        Server::bind(&path, None),
        Err(Error::InUse { .. })
    ));

    let stale = server.dir.path().join("stale");
    let dead = socket().unwrap();
    bind(&dead, &SocketAddrUnix::new(&stale).unwrap()).unwrap();
    drop(dead);
    drop(Server::bind(&stale, None).unwrap());
    assert!(!stale.exists());

    std::fs::write(&stale, "not a socket").unwrap();
    assert!(matches!(
        Server::bind(&stale, None),
        Err(Error::Listen { .. })
    ));
    assert!(stale.exists());
}

#[test]
fn without_a_server_the_advice_is_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let error = Client::connect(&dir.path().join("none")).unwrap_err();
    assert!(error.to_string().contains("luoctl hold"));
}
