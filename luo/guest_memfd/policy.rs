// SPDX-License-Identifier: GPL-2.0-only

//! Memory policies. They are of use for holes that are filled later, and nothing that is wrong with them is
//! worth the memory that is there.

use crate::kvm::{
    policy::present,
    NewGuestMemfd,
    PreservedPages, //
};
use kernel::prelude::*;
use luo::{
    abi::{
        self,
        guest_memfd::{
            policy::{
                Policy,
                PolicyChecker,
                PolicyList,
                PolicySer, //
            },
            GuestMemfdSer,
            Header, //
        },
        vmalloc::KhoVmalloc, //
    },
    kho::{
        Incoming,
        IncomingList,
        PreservedVec, //
    },
    test::{
        mistake,
        Mistake, //
    }, //
};

/// The policies of a file, for the next kernel.
pub(crate) struct PreservedPolicies {
    list: PreservedVec<PolicySer>,
}

impl PreservedPolicies {
    /// Those of a file that has `end` pages. They do not change any more, as the file is frozen.
    pub(super) fn new(file: &PreservedPages, end: u32) -> Result<Self> {
        let mut this = Self {
            list: PreservedVec::new(),
        };
        let mut last: Option<Policy> = None;
        let mut next = 0;
        while let Some(policy) = file.policy(next, end)? {
            next = policy.pages().end;
            let is_more = last.as_mut().is_some_and(|last| last.extend(&policy));
            if !is_more {
                this.push(last.replace(policy))?;
            }
            if luo::interrupted() {
                return Err(EINTR);
            }
        }
        this.push(last)?;
        Ok(this)
    }

    fn push(&mut self, policy: Option<Policy>) -> Result {
        let Some(policy) = policy else {
            return Ok(());
        };
        if self.list.len() >= PolicyList::MAX.into() {
            return Err(EFBIG);
        }
        let slot = self.list.room()?.first_mut().ok_or(ENOMEM)?;
        slot.write(PolicySer::from(&policy));
        self.list.commit(1);
        Ok(())
    }

    /// Number of records.
    pub(super) fn nr(&self) -> Result<u32> {
        u32::try_from(self.list.len()).map_err(|_| EFBIG)
    }

    /// Memory of the list, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.list.bytes()
    }

    /// The description that the next kernel needs.
    pub(super) fn describe(&self) -> KhoVmalloc {
        self.list.describe()
    }

    /// The records, for the test hook.
    #[cfg(CONFIG_LIVEUPDATE_TEST)]
    pub(super) fn records(&self) -> &PreservedVec<PolicySer> {
        &self.list
    }
}

/// The policies of a file, as the previous kernel describes them.
pub(crate) struct IncomingPolicies(IncomingList<PolicySer>);

impl IncomingPolicies {
    pub(super) fn new(header: &mut Incoming<GuestMemfdSer>) -> Self {
        Self(IncomingList::take(header, |raw| &mut raw.policies))
    }

    /// Checks the list and all records. There are none if anything is wrong.
    pub(super) fn check(mut self, header: &Header) -> Option<ListedPolicies> {
        let result = header.policies().and_then(|list| {
            self.0.check(list.list())?;
            let mut checker = PolicyChecker::new(list);
            self.0.try_for_each(list.nr(), |record| {
                checker.check(record).map(|_| ()) //
            })?;
            checker.end()?;
            Ok(*list)
        });
        match result {
            Ok(list) => Some(ListedPolicies {
                records: self.0,
                list,
            }),
            Err(err) => {
                pr_warn!(
                    "memory policies of a file are damaged, and are left out: {}\n",
                    format_args!("{err}")
                );
                None
            }
        }
    }
}

/// Policies that were checked.
pub(crate) struct ListedPolicies {
    records: IncomingList<PolicySer>,
    list: PolicyList,
}

impl ListedPolicies {
    /// Sets them, as far as this machine has the nodes and the memory for them.
    pub(super) fn apply(self, file: &NewGuestMemfd) {
        if mistake(Mistake::NoPolicy) {
            return;
        }
        let present = present();
        let (mut less, mut lost) = (0u32, 0u32);
        let mut checker = PolicyChecker::new(&self.list);
        let result = self.records.try_for_each(self.list.nr(), |record| {
            let (left, is_all) = checker.check(record)?.on(&present);
            match left.map(|policy| file.set_policy(&policy)) {
                Some(Ok(())) if is_all => {}
                Some(Ok(())) => less = less.saturating_add(1),
                Some(Err(_)) | None => lost = lost.saturating_add(1),
            }
            luo::interrupted();
            Ok::<_, abi::Error>(())
        });
        if let Err(err) = result {
            pr_warn!(
                "memory policies of a file are damaged: {}\n",
                format_args!("{err}")
            );
        }
        if less != 0 || lost != 0 {
            pr_warn!(
                "of {} memory policies of a file, {} go without nodes that are not there, and {} are left out\n",
                self.list.nr(),
                less,
                lost
            );
        }
    }
}
