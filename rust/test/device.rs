// SPDX-License-Identifier: GPL-2.0-only

//! The device, and the faults that were ordered through it.

use super::{
    coco,
    records::{
        Own,
        Records, //
    },
    Step, //
};
#[cfg(CONFIG_HUGETLBFS)]
use crate::hugetlb::pools;
use crate::{
    abi::guest_memfd::policy::PolicySer,
    kho::Abi, //
};
use core::{
    num::NonZeroU32,
    ptr::NonNull, //
};
use kernel::{
    fs::{
        File,
        Kiocb, //
    },
    iov::IovIterSource,
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*,
    str::{
        parse_int::ParseInt,
        BStr, //
    },
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

kernel::sync::global_lock! {
    // SAFETY: `Device::register()` is called when the module is loaded, before anything else.
    unsafe(uninit) static ORDERS: Mutex<Orders> = Orders::new();
}

/// Pages to pin at a time; 0 for the default.
static CHUNK: Atomic<u32> = Atomic::new(0);

struct Fail {
    step: Step,
    errno: i32,
    left: u32,
    /// Calls before that do not fail.
    after: u32,
}

enum Poke {
    /// Overwrites eight bytes in the header.
    Head(usize, u64),
    /// Overwrites eight bytes in the record with this number.
    Array(u64, usize, u64),
    /// Makes the record with this number name a page of the list that it is in.
    Own(u64, Own),
    /// Overwrites eight bytes in the memory policy with this number.
    Policy(u64, usize, u64),
    /// Overwrites eight bytes in the table of huge pages.
    #[cfg(CONFIG_HUGETLBFS)]
    Pools(usize, u64),
    /// Makes the checksums fit.
    Sum,
    /// What follows is for another file.
    Next,
}

struct Undo {
    /// Address of the `struct file`.
    file: usize,
    at: usize,
    value: u64,
}

struct Orders {
    fails: KVec<Fail>,
    /// For the next files that are frozen.
    pokes: KVec<Poke>,
    undo: KVec<Undo>,
}

impl Orders {
    const fn new() -> Self {
        Self {
            fails: KVec::new(),
            pokes: KVec::new(),
            undo: KVec::new(),
        }
    }

    /// Carries out one command.
    fn order(&mut self, command: &str) -> Result {
        let mut words = command.split_ascii_whitespace();
        match words.next() {
            Some("fail") => {
                let step = match words.next() {
                    Some("preserve") => Step::Preserve,
                    Some("freeze") => Step::Freeze,
                    Some("retrieve") => Step::Retrieve,
                    _ => return Err(EINVAL),
                };
                let errno = i32::try_from(number(words.next())?).map_err(|_| EINVAL)?;
                let mut count = |default| match words.next() {
                    None => Ok(default),
                    count => u32::try_from(number(count)?).map_err(|_| EINVAL),
                };
                let fail = Fail {
                    step,
                    errno,
                    left: count(1)?,
                    after: count(0)?,
                };
                self.fails.push(fail, GFP_KERNEL)?;
            }
            Some("poke") => {
                let offset = |word| usize::try_from(number(word)?).map_err(|_| EINVAL);
                let poke = match words.next() {
                    Some("head") => Poke::Head(offset(words.next())?, number(words.next())?),
                    Some("array") => Poke::Array(
                        number(words.next())?,
                        offset(words.next())?,
                        number(words.next())?,
                    ),
                    Some("own") => {
                        let nr = number(words.next())?;
                        let own = match words.next() {
                            Some("records") => Own::Records,
                            Some("chunk") => Own::Chunk,
                            _ => return Err(EINVAL),
                        };
                        Poke::Own(nr, own)
                    }
                    Some("policy") => Poke::Policy(
                        number(words.next())?,
                        offset(words.next())?,
                        number(words.next())?,
                    ),
                    #[cfg(CONFIG_HUGETLBFS)]
                    Some("pools") => Poke::Pools(offset(words.next())?, number(words.next())?),
                    _ => return Err(EINVAL),
                };
                self.pokes.push(poke, GFP_KERNEL)?;
            }
            Some("sum") => self.pokes.push(Poke::Sum, GFP_KERNEL)?,
            Some("next") => self.pokes.push(Poke::Next, GFP_KERNEL)?,
            Some("chunk") => {
                let pages = u32::try_from(number(words.next())?).map_err(|_| EINVAL)?;
                CHUNK.store(pages, Relaxed);
            }
            Some("coco") => coco::order(Some(words.next().ok_or(EINVAL)?))?,
            Some("reset") => {
                self.fails.clear();
                self.pokes.clear();
                CHUNK.store(0, Relaxed);
                coco::order(None)?;
            }
            _ => return Err(EINVAL),
        }
        Ok(())
    }

    fn poke(&mut self, file: &File, at: NonNull<u64>, value: u64) -> Result {
        let undo = Undo {
            file: file.as_ptr() as usize,
            at: at.as_ptr() as usize,
            // SAFETY: The caller found it in memory that is handed over.
            value: unsafe { at.read_unaligned() },
        };
        self.undo.push(undo, GFP_KERNEL)?;
        // SAFETY: As above.
        unsafe { at.write_unaligned(value) };
        Ok(())
    }
}

fn number(word: Option<&str>) -> Result<u64> {
    u64::from_str(BStr::from_bytes(word.ok_or(EINVAL)?.as_bytes()))
}

/// Pages to pin at a time, if a test wants another number.
pub fn chunk() -> Option<NonZeroU32> {
    NonZeroU32::new(CHUNK.load(Relaxed))
}

/// Fails if it was ordered to.
pub(crate) fn fail(step: Step) -> Result {
    let mut orders = ORDERS.lock();
    let found = orders
        .fails
        .iter_mut()
        .find(|fail| fail.step == step && fail.left != 0);
    let Some(fail) = found else {
        return Ok(());
    };
    if fail.after != 0 {
        fail.after -= 1;
        return Ok(());
    }
    fail.left -= 1;
    Err(Error::from_errno(-fail.errno))
}

/// Damages what is handed over for `file`, if it was ordered to. `sum` makes the checksums of the header
/// fit.
pub(crate) fn damage<H: Abi>(
    file: &File,
    header: &mut H,
    records: Option<Records<'_>>,
    sum: impl Fn(&mut H),
) -> Result {
    const WORD: usize = size_of::<u64>();

    let mut orders = ORDERS.lock();
    let mut later = core::mem::take(&mut orders.pokes);
    let mut pokes = KVec::new();
    while !later.is_empty() {
        match later.remove(0).map_err(|_| EINVAL)? {
            Poke::Next => break,
            poke => pokes.push(poke, GFP_KERNEL)?,
        }
    }
    orders.pokes = later;
    for poke in &pokes {
        let record = |nr| {
            let list = records.as_ref().map(|records| records.list);
            list.and_then(|list| list.record(nr)).ok_or(EINVAL)
        };
        let (memory, offset, value) = match *poke {
            Poke::Head(offset, value) => {
                (NonNull::from(header.as_mut_bytes()), offset, value) //
            }
            Poke::Array(nr, offset, value) => (record(nr)?, offset, value),
            Poke::Own(nr, own) => {
                let list = records.as_ref().ok_or(EINVAL)?.list;
                (record(nr)?, 0, list.naming(own).ok_or(EINVAL)?)
            }
            Poke::Policy(nr, offset, value) => {
                let list = records.as_ref().and_then(|records| records.policies);
                let at = list.and_then(|list| list.record_ptr(nr)).ok_or(EINVAL)?;
                // SAFETY: It is a record of a list that is there for as long as the file is preserved.
                let mut policy = unsafe { at.read() };
                let to = offset.checked_add(WORD).ok_or(EINVAL)?;
                let word = policy.as_mut_bytes().get_mut(offset..to).ok_or(EINVAL)?;
                word.copy_from_slice(&value.to_ne_bytes());
                if offset != 0 {
                    policy.checksum = policy.sum();
                    orders.poke(file, at.cast(), policy.checksum)?;
                }
                let memory = NonNull::slice_from_raw_parts(at.cast(), size_of::<PolicySer>());
                (memory, offset, value)
            }
            #[cfg(CONFIG_HUGETLBFS)]
            Poke::Pools(offset, value) => (pools::table().ok_or(EINVAL)?, offset, value),
            Poke::Sum => {
                let mut summed = *header;
                sum(&mut summed);
                let first = NonNull::from(header.as_mut_bytes()).cast::<u64>();
                for (nr, word) in summed.as_bytes().chunks_exact(WORD).enumerate() {
                    let word = u64::from_ne_bytes(*word.first_chunk().ok_or(EINVAL)?);
                    // SAFETY: The header has at least as many words.
                    orders.poke(file, unsafe { first.add(nr) }, word)?;
                }
                continue;
            }
            Poke::Next => continue,
        };
        let end = offset.checked_add(WORD).ok_or(EINVAL)?;
        if end > memory.len() {
            return Err(EINVAL);
        }
        // SAFETY: It was just checked that this is in bounds.
        let at = unsafe { memory.cast::<u8>().add(offset) };
        orders.poke(file, at.cast(), value)?;
        pr_info!("test: damaged the state of a file\n");
    }
    Ok(())
}

/// Puts back what [`damage`] changed.
pub(crate) fn repair(file: &File) {
    let key = file.as_ptr() as usize;
    let mut orders = ORDERS.lock();
    // Backwards, as what was changed twice has to become what it was at first.
    while let Some(at) = orders.undo.iter().rposition(|undo| undo.file == key) {
        let Ok(undo) = orders.undo.remove(at) else {
            break;
        };
        // SAFETY: The memory is that of a file that is still preserved, as this is called before it
        // is not.
        unsafe { (undo.at as *mut u64).write_unaligned(undo.value) };
    }
}

/// The device.
#[pin_data]
pub(crate) struct Device {
    #[pin]
    device: MiscDeviceRegistration<Writer>,
}

impl Device {
    pub(crate) fn register(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // SAFETY: Modules are initialised once.
        unsafe { ORDERS.init() };
        try_pin_init!(Self {
            device <- MiscDeviceRegistration::register(MiscDeviceOptions {
                name: c"luo_test",
            }),
        })
    }
}

struct Writer;

#[vtable]
impl MiscDevice for Writer {
    type Ptr = KBox<Self>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<Self>> {
        Ok(KBox::new(Self, GFP_KERNEL)?)
    }

    fn write_iter(_kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterSource<'_>) -> Result<usize> {
        if iov.len() > kernel::page::PAGE_SIZE {
            return Err(EMSGSIZE);
        }
        let mut text = KVec::new();
        let len = iov.copy_from_iter_vec(&mut text, GFP_KERNEL)?;
        let command = core::str::from_utf8(&text).map_err(|_| EINVAL)?;
        ORDERS.lock().order(command)?;
        Ok(len)
    }
}
