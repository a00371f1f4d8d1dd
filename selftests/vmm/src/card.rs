// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A network card that a guest has for itself: an igb, by VFIO.
//!
//! Behind an IOMMU the card finds all of the guest's memory at the guest's own addresses. Without one (VFIO's
//! noiommu mode) it finds the machine's, so that its ring has to be in one huge page. The guest has the card's
//! registers mapped and uses them itself; the VMM has done what firmware does. No interrupts.
//!
//! While the machine's kernel is replaced, the card goes on and fills the ring.

use anyhow::{
    ensure,
    Context,
    Error,
    Result, //
};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use liveupdate::{
    vfio,
    IncomingSession,
    Session,
    Token, //
};
use progs::memory::Map;
use progs::vfio::manifest::Manifest;
use progs::vfio::{
    igb,
    Access,
    Device,
    PciDevice,
    Registers,
    Space, //
};

use crate::arch::{
    self,
    RAM_BASE, //
};
use crate::memory::{
    Memory,
    PAGE, //
};
use crate::receiver::{
    self,
    RING,
    SIZE,
    SLOTS, //
};

const IOMMUFD: Token = Token(4);
const DEVICE: Token = Token(5);

/// The VM's slot of memory for the registers; the first one has the guest's memory.
const SLOT: u32 = 1;

/// The card. It must live longer than the VM it is attached to; [`crate::machine::Machine`] sees to that.
#[derive(Debug)]
pub(crate) struct Card {
    registers: Registers,
    device: Device,
    space: Space,
    has_iommu: bool,
}

impl Card {
    /// Takes the one igb that `vfio-pci` has, and lets it receive into the guest's memory.
    pub(crate) fn new(memory: &Memory) -> Result<Self> {
        let place = PciDevice::find(igb::MODEL)?;
        let has_iommu = place.has_iommu();
        let space = Space::new()?;
        let mut delta = 0;
        if has_iommu {
            map(&space, memory)?;
        } else {
            delta = physical(memory)?.wrapping_sub(RING);
        }
        let file = place
            .open()
            .context("vfio-pci does not have the card, or somebody else uses it")?;
        let device = Device::bind_to(file, &space)?;
        if has_iommu {
            device
                .attach()
                .context("the card does not take the guest's memory")?;
        }
        device.enable()?;
        let registers = device.map(0)?;
        receiver::fill(memory, delta)?;
        igb::start_with(&registers, RING.wrapping_add(delta), SLOTS).map_err(Error::msg)?;
        Ok(Self {
            registers,
            device,
            space,
            has_iommu,
        })
    }

    /// Takes over what another VMM preserved. The page table that was in force until now is replaced only by one
    /// that leads to the same memory.
    pub(crate) fn take_over(
        session: &IncomingSession,
        memory: &Memory,
        has_iommu: bool,
    ) -> Result<Self> {
        let manifest = match has_iommu {
            true => {
                let file = session
                    .retrieve(IOMMUFD)
                    .context("what the card finds at which address")?;
                Some(Manifest::new(file))
            }
            false => None,
        };
        let space = Space::new()?;
        if manifest.is_some() {
            map(&space, memory)?;
        }
        let device = Device::bind_to(session.retrieve(DEVICE).context("the card")?, &space)?;
        if let Some(manifest) = manifest {
            let table = space.page_table(&device)?;
            manifest
                .verify(&space, table)
                .map_err(|(error, iova)| Error::from(error).context(format!("at {iova:#x}")))
                .context("the card finds other memory than before")?;
            device
                .attach_to(table)
                .context("the card does not take the guest's memory")?;
        }
        Ok(Self {
            registers: device.map(0)?,
            device,
            space,
            has_iommu,
        })
    }

    /// Gives the registers to a VM.
    pub(crate) fn attach(&self, vm: &VmFd) -> Result<()> {
        let (address, size) = self.registers.place();
        let region = kvm_userspace_memory_region {
            slot: SLOT,
            flags: 0,
            guest_phys_addr: arch::CARD,
            memory_size: size,
            userspace_addr: address,
        };
        // SAFETY: the region is the whole of a mapping that `self` owns, and `Machine` keeps `self`
        // for as long as the VM.
        unsafe { vm.set_user_memory_region(region) }.context("KVM does not take the registers")
    }

    /// Preserves the card, which goes on; the guest may use it until the kernel is replaced.
    pub(crate) fn preserve(&self, session: &Session) -> Result<()> {
        if self.has_iommu {
            session
                .preserve(self.space.fd(), IOMMUFD)
                .context("what the card finds at which address")?;
        }
        session
            .preserve(self.device.fd(), DEVICE)
            .context("the card")
    }

    /// Nothing of it may interrupt when the kernel is replaced.
    pub(crate) fn silence(&self) -> Result<()> {
        Ok(vfio::silence(self.device.fd())?)
    }

    /// Whether there is an IOMMU for it.
    pub(crate) fn has_iommu(&self) -> bool {
        self.has_iommu
    }

    /// How many frames found no room.
    pub(crate) fn missed(&self) -> u32 {
        igb::missed(&self.registers)
    }
}

fn map(space: &Space, memory: &Memory) -> Result<()> {
    let (file, _) = memory.files();
    space
        .map(file, memory.size(), RAM_BASE, Access::Write)
        .with_context(|| {
            format!(
                "memory of the kind {:?} cannot be mapped for a card",
                memory.backend()
            )
        })
}

/// Where the ring and its buffers are in the machine's memory.
fn physical(memory: &Memory) -> Result<u64> {
    let (file, _) = memory.files();
    let map = Map::new(file, memory.size(), true)?;
    let first = (RING - RAM_BASE) / PAGE;
    let pfns = map.pfns_of(first..first + SIZE / PAGE)?;
    let start = pfns.first().copied().unwrap_or(0);
    ensure!(
        start != 0 && (start..).zip(&pfns).all(|(expected, pfn)| expected == *pfn),
        "without an IOMMU a card needs memory in huge pages (--memory hugetlb-2m)"
    );
    Ok(start * PAGE)
}
