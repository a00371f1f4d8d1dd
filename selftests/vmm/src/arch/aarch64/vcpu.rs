// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The state of a vCPU: every register that KVM lists, and the timers' counters.

use anyhow::{
    bail,
    Context,
    Result, //
};
use kvm_bindings::{
    kvm_mp_state,
    kvm_vcpu_events,
    RegList, //
};
use kvm_ioctls::VcpuFd;
use zerocopy::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

use super::counter;
use crate::state::{
    Kind,
    State,
    Writer, //
};

/// The most that kvm-bindings has room for; KVM lists less without SVE.
const MAX: usize = 500;
/// The largest register without SVE.
const SIZE: usize = 16;
/// The virtual counter by KVM's number for it, which has the CVAL's encoding, and the physical one.
const VIRTUAL_COUNT: u64 = 0x6030_0000_0013_df1a;
const PHYSICAL_COUNT: u64 = 0x6030_0000_0013_df01;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Register {
    id: u64,
    value: [u8; SIZE],
}

fn size(id: u64) -> Result<usize> {
    let size = 1usize << (id >> 52 & 0xf);
    if size > SIZE {
        bail!("register {id:#x} has {size} bytes, which this VMM does not expect");
    }
    Ok(size)
}

fn read(vcpu: &VcpuFd, id: u64) -> Result<Register> {
    let mut value = [0; SIZE];
    size(id)?;
    vcpu.get_one_reg(id, &mut value)
        .with_context(|| format!("KVM does not tell register {id:#x}"))?;
    Ok(Register { id, value })
}

/// What all vCPUs' counters are restored by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// The counter when the guest's counters were read.
    then: u64,
    /// For tests: the guest's counter is set back.
    back: bool,
}

impl Clock {
    pub(crate) fn new(state: &State, back: bool) -> Result<Self> {
        Ok(Self {
            then: state.get(Kind::Counter, 0)?,
            back,
        })
    }

    /// Whether the counter goes on from where it was.
    fn goes_on(self) -> bool {
        counter() >= self.then
    }
}

/// Saves a vCPU that is stopped.
pub(crate) fn save_vcpu(number: usize, vcpu: &VcpuFd, writer: &mut Writer) -> Result<()> {
    let count = read(vcpu, VIRTUAL_COUNT)?;
    // Taken directly after the guest's counter, which loses the time between them, and never before it:
    // its time never includes what has not passed.
    writer.put(Kind::Counter, number, &counter())?;
    let mut list = RegList::new(MAX)?;
    vcpu.get_reg_list(&mut list)
        .context("KVM does not list the registers")?;
    let registers = list
        .as_slice()
        .iter()
        .map(|id| match *id {
            VIRTUAL_COUNT => Ok(count),
            id => read(vcpu, id),
        })
        .collect::<Result<Vec<_>>>()?;
    writer.put_list(Kind::OneRegs, number, &registers)?;
    writer.put(Kind::MpState, number, &vcpu.get_mp_state()?)?;
    let events = vcpu.get_vcpu_events()?.exception;
    let events = [
        u64::from(events.serror_pending),
        u64::from(events.serror_has_esr),
        events.serror_esr,
    ];
    writer.put_list(Kind::VcpuEvents, number, &events)
}

/// Restores a vCPU.
pub(crate) fn restore_vcpu(
    number: usize,
    vcpu: &VcpuFd,
    state: &State,
    clock: Clock,
) -> Result<()> {
    for mut register in state.list::<Register>(Kind::OneRegs, number)? {
        let size = size(register.id)?;
        if matches!(register.id, VIRTUAL_COUNT | PHYSICAL_COUNT) {
            // They have one offset for the whole VM. The physical counter is the host's as long as nobody
            // gives it one.
            if number != 0 || (register.id == PHYSICAL_COUNT && clock.goes_on()) {
                continue;
            }
            // The guest's time goes on by what has passed; if that cannot be known, by nothing.
            let [low @ .., _, _, _, _, _, _, _, _] = register.value;
            let passed = counter().saturating_sub(clock.then);
            let count = match clock.back {
                false => u64::from_le_bytes(low).saturating_add(passed),
                true => u64::from_le_bytes(low) / 2,
            };
            register.value = u128::from(count).to_le_bytes();
        }
        let value = register.value.get(..size).context("checked above")?;
        // Some registers cannot be written, and need not be if they have the value.
        if let Err(error) = vcpu.set_one_reg(register.id, value) {
            if read(vcpu, register.id)?.value != register.value {
                return Err(error)
                    .with_context(|| format!("KVM does not take register {:#x}", register.id));
            }
        }
    }
    let [pending, has_esr, esr]: [u64; 3] = state
        .list(Kind::VcpuEvents, number)?
        .try_into()
        .ok()
        .context("the events have another size")?;
    let mut events = kvm_vcpu_events::default();
    events.exception.serror_pending = u8::try_from(pending)?;
    events.exception.serror_has_esr = u8::try_from(has_esr)?;
    events.exception.serror_esr = esr;
    vcpu.set_vcpu_events(&events).context("events")?;
    vcpu.set_mp_state(state.get::<kvm_mp_state>(Kind::MpState, number)?)
        .context("run state")
}
