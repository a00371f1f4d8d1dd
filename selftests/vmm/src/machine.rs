// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A guest: memory, devices and vCPUs, made new or from a state.

use std::sync::Arc;

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_ioctls::Kvm;
use zerocopy::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

use crate::arch::{
    self,
    Vm, //
};
use crate::card::Card;
use crate::devices::Devices;
use crate::guest::Guest;
use crate::memory::{
    Backend,
    Memory,
    Shape,
    PAGE, //
};
use crate::state::{
    Kind,
    State,
    Writer, //
};
use crate::timeline::Timeline;
use crate::tiny;
use crate::vcpu::Vcpus;
use crate::watch::Watch;

const MAX_VCPUS: usize = 8;
/// The sums of memory are there.
const CHECKED: u32 = 1 << 0;
/// The guest has a card, and there is an IOMMU for it.
const CARD: u32 = 1 << 1;
const IOMMU: u32 = 1 << 2;

/// What a state says of its guest as a whole.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Record {
    /// Size of the memory.
    pub(crate) size: u64,
    /// The last heartbeat.
    pub(crate) beat: u64,
    /// The checksum of all memory.
    pub(crate) checksum: u64,
    /// The digest of the numbers of its physical pages.
    pub(crate) pages: u64,
    pub(crate) vcpus: u32,
    pub(crate) backend: u32,
    pub(crate) flags: u32,
    pub(crate) reserved: u32,
}

impl Record {
    /// Reads the record and checks it against what this VMM can do.
    pub(crate) fn read(state: &State) -> Result<Self> {
        let record: Self = state.get(Kind::Guest, 0)?;
        ensure!(
            record.flags & !(CHECKED | CARD | IOMMU) == 0 && record.reserved == 0,
            "the state has properties that this VMM does not know"
        );
        limits(record.vcpus as usize, record.size)?;
        Ok(record)
    }

    pub(crate) fn is_checked(&self) -> bool {
        self.flags & CHECKED != 0
    }

    pub(crate) fn has_card(&self) -> bool {
        self.flags & CARD != 0
    }

    pub(crate) fn has_iommu(&self) -> bool {
        self.flags & IOMMU != 0
    }
}

/// What a test wants to be wrong with the VM of a resumed guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Wrong {
    /// It is of another type, with or without private memory.
    Type,
    /// Private memory is taken for shared memory.
    Attributes,
    /// The counters of its CPUs go on from half of what they were.
    Clock,
}

fn limits(vcpus: usize, size: u64) -> Result<()> {
    ensure!(
        (1..=MAX_VCPUS).contains(&vcpus),
        "a guest has 1 to {MAX_VCPUS} vCPUs, not {vcpus}"
    );
    ensure!(
        (4 << 20..=arch::RAM_MAX).contains(&size),
        "a guest has 4 to {} MiB of memory",
        arch::RAM_MAX >> 20
    );
    Ok(())
}

/// A guest. Its vCPUs come first, so that nothing runs when its memory goes.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) vcpus: Vcpus,
    vm: Vm,
    devices: Arc<Devices>,
    pub(crate) card: Option<Card>,
    pub(crate) memory: Memory,
    pub(crate) shape: Arc<Shape>,
    pub(crate) watch: Arc<Watch>,
    /// How fast [`arch::counter`] counts.
    pub(crate) hz: u64,
}

impl Machine {
    /// A new guest that is ready to start.
    pub(crate) fn new(
        name: &str,
        guest: &Guest,
        backend: Backend,
        size: u64,
        sparse: bool,
        vcpus: usize,
    ) -> Result<Self> {
        limits(vcpus, size)?;
        let receives = matches!(guest, Guest::Receiver);
        ensure!(
            !receives || !backend.is_guest_memfd(),
            "guest_memfd memory cannot be held for a card"
        );
        ensure!(
            !backend.is_private() || matches!(guest, Guest::Tiny { .. }),
            "only the tiny guest knows of private memory"
        );
        let kvm = Kvm::new().context("/dev/kvm cannot be opened")?;
        let vm = arch::create_vm(&kvm, backend.is_private())?;
        let memory = Memory::create(backend, size, &vm.fd, sparse)?;
        memory.attach(&vm.fd)?;
        let shape = Arc::new(Shape::new(&vm.fd, &memory, tiny::DATA / PAGE)?);
        let fds = arch::create_vcpus(&kvm, &vm, vcpus)?;
        arch::boot(guest, &memory, &fds)?;
        let card = receives.then(|| Card::new(&memory)).transpose()?;
        if let Some(card) = &card {
            card.attach(&vm.fd)?;
        }
        let watch = Arc::new(Watch::default());
        let devices = Arc::new(Devices::new(&vm, name, &watch)?);
        let hz = fds.first().map_or(Ok(0), arch::hz)?;
        Ok(Self {
            vcpus: Vcpus::new(fds, &devices, &shape, &watch)?,
            vm,
            devices,
            card,
            memory,
            shape,
            watch,
            hz,
        })
    }

    /// A guest that goes on from a state, ready to start when its memory is thawed. With `wrong`, for
    /// tests, its VM is not as the state says.
    pub(crate) fn restore(
        name: &str,
        state: &State,
        mut memory: Memory,
        card: Option<Card>,
        wrong: Option<Wrong>,
    ) -> Result<Self> {
        let record = Record::read(state)?;
        let kvm = Kvm::new().context("/dev/kvm cannot be opened")?;
        let private = memory.backend().is_private() != (wrong == Some(Wrong::Type));
        let vm = arch::create_vm(&kvm, private)?;
        memory.link(&vm.fd)?;
        memory.attach(&vm.fd)?;
        if let Some(card) = &card {
            card.attach(&vm.fd)?;
        }
        let forget = wrong == Some(Wrong::Attributes);
        let shape = Arc::new(Shape::restore(&vm.fd, &memory, state, forget)?);
        let fds = arch::create_vcpus(&kvm, &vm, record.vcpus as usize)?;
        let hz = fds.first().map_or(Ok(0), arch::hz)?;
        arch::restore_vm(&vm, state, hz)?;
        let clock = arch::Clock::new(state, wrong == Some(Wrong::Clock))?;
        for (number, vcpu) in fds.iter().enumerate() {
            arch::restore_vcpu(number, vcpu, state, clock)
                .with_context(|| format!("vCPU {number}"))?;
        }
        arch::restore_interrupts(&vm, fds.len(), state)?;
        let watch = Arc::new(Watch::from(record.beat));
        let devices = Arc::new(Devices::restore(&vm, name, &watch, state)?);
        Ok(Self {
            vcpus: Vcpus::new(fds, &devices, &shape, &watch)?,
            vm,
            devices,
            card,
            memory,
            shape,
            watch,
            hz,
        })
    }

    /// Saves the guest, whose vCPUs are stopped.
    pub(crate) fn save(&self, timeline: &mut Timeline, check: bool) -> Result<Vec<u8>> {
        let mut writer = Writer::default();
        // In this order an interrupt on its way from the controllers to a vCPU is saved twice at the worst,
        // and never not at all.
        arch::save_vm(&self.vm, self.vcpus.len(), &mut writer).context("the VM's state")?;
        self.vcpus
            .each(|number, vcpu| arch::save_vcpu(number, vcpu, &mut writer))?;
        self.devices.save(&mut writer)?;
        self.shape.save(&mut writer)?;
        timeline.mark();

        let mut record = Record {
            size: self.memory.size(),
            beat: self.watch.progress().beat,
            checksum: 0,
            pages: 0,
            vcpus: u32::try_from(self.vcpus.len())?,
            backend: self.memory.backend().number(),
            flags: 0,
            reserved: 0,
        };
        if let Some(card) = &self.card {
            record.flags |= CARD;
            if card.has_iommu() {
                record.flags |= IOMMU;
            }
        }
        if check {
            // A card writes to it all the time.
            ensure!(
                self.card.is_none(),
                "the memory of a guest with a card has no checksum that lasts"
            );
            record.checksum = self.memory.checksum()?;
            record.pages = self.memory.pages()?;
            record.flags |= CHECKED;
        }
        writer.put(Kind::Guest, 0, &record)?;
        timeline.mark();
        writer.put_list(Kind::Timeline, 0, timeline.ticks())?;
        writer.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(record: Record) -> Result<Record> {
        let mut writer = Writer::default();
        writer.put(Kind::Guest, 0, &record)?;
        Record::read(&State::read(&State::write(&writer.finish()?, None)?)?)
    }

    #[test]
    fn what_this_vmm_does_not_know_is_refused() {
        let good = Record {
            size: 32 << 20,
            beat: 1,
            checksum: 0,
            pages: 0,
            vcpus: 2,
            backend: 1,
            flags: CHECKED,
            reserved: 0,
        };
        assert!(read(good).is_ok());
        assert!(read(Record { flags: 8, ..good }).is_err());
        assert!(read(Record {
            reserved: 1,
            ..good
        })
        .is_err());
        assert!(read(Record { vcpus: 0, ..good }).is_err());
        assert!(read(Record { vcpus: 9, ..good }).is_err());
        assert!(read(Record { size: 0, ..good }).is_err());
        assert!(read(Record {
            size: u64::MAX,
            ..good
        })
        .is_err());
        for (number, known) in (0..8).zip([false, true, true, true, true, true, false, false]) {
            assert_eq!(Backend::from_number(number).is_ok(), known);
            assert!(!known || Backend::from_number(number).unwrap().number() == number);
        }
    }
}
