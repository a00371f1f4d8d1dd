// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The cases.
//!
//! `old` runs in the old kernel; what it preserves must come out as `new` expects it in the new one.
//! A case without `new` shows something within one kernel.

use crate::run::{
    New,
    Old, //
};
use anyhow::{
    bail,
    Result, //
};

mod abort;
mod access;
mod content;
mod extents_bad;
mod faults;
mod finish;
mod freeze;
mod frozen;
mod gmem;
mod holes;
mod huge;
mod hugetlb;
mod large;
mod limits;
mod lockdown;
mod module;
mod seals;
mod security;
mod skew;
mod swap;
mod unaware;
mod vfio;
mod writes;

/// One subject.
#[derive(Debug)]
pub struct Case {
    /// How it is chosen; a dot separates the subject from its variations.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// Runs before the update.
    pub old: Option<fn(&mut Old<'_>) -> Result<()>>,
    /// Runs after the update.
    pub new: Option<fn(&mut New<'_>) -> Result<()>>,
    /// Runs if no case is named.
    pub default: bool,
    /// Leaves a host that is in use as it was.
    pub host: bool,
}

impl Case {
    const fn update(
        name: &'static str,
        about: &'static str,
        old: fn(&mut Old<'_>) -> Result<()>,
        new: fn(&mut New<'_>) -> Result<()>,
    ) -> Self {
        Self {
            name,
            about,
            old: Some(old),
            new: Some(new),
            default: true,
            host: false,
        }
    }

    const fn local(
        name: &'static str,
        about: &'static str,
        old: fn(&mut Old<'_>) -> Result<()>,
    ) -> Self {
        Self {
            name,
            about,
            old: Some(old),
            new: None,
            default: true,
            host: false,
        }
    }

    /// Runs only if named: it needs a certain machine or changes it.
    const fn on_request(mut self) -> Self {
        self.default = false;
        self
    }

    /// Leaves a host that is in use as it was.
    const fn on_host(mut self) -> Self {
        self.host = true;
        self
    }
}

/// All cases.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [
        content::CASES,
        holes::CASES,
        huge::CASES,
        seals::CASES,
        access::CASES,
        frozen::CASES,
        writes::CASES,
        swap::CASES,
        abort::CASES,
        freeze::CASES,
        finish::CASES,
        limits::CASES,
        lockdown::CASES,
        security::CASES,
        unaware::CASES,
        module::CASES,
        skew::CASES,
        faults::CASES,
        gmem::CASES,
        hugetlb::CASES,
        large::CASES,
        extents_bad::CASES,
        vfio::CASES,
        vfio::IOMMU_CASES,
        crate::bad::CASES,
    ]
    .into_iter()
    .flatten()
}

/// The cases with these names but for those in `without`. A name also stands for all `name.*`, and no
/// name for the default cases.
pub fn choose(names: &[String], without: &[String]) -> Result<Vec<&'static Case>> {
    let is = |name: &String, case: &Case| {
        let rest = case.name.strip_prefix(name.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    for name in names.iter().chain(without) {
        if !all().any(|case| is(name, case)) {
            bail!("there is no case \"{name}\"; `lu_memfd list` shows all");
        }
    }
    let wanted = |case: &&Case| {
        let named = names.iter().any(|name| is(name, case));
        let chosen = named || names.is_empty() && case.default;
        chosen && !without.iter().any(|name| is(name, case))
    };
    Ok(all().filter(wanted).collect())
}

/// The cases for a host that is in use, of these subjects.
pub fn choose_for_host(names: &[String]) -> Result<Vec<&'static Case>> {
    let mut cases = if names.is_empty() {
        all().collect()
    } else {
        choose(names, &[])?
    };
    cases.retain(|case| case.host);
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_a_host_in_use_needs_no_update() {
        let cases = choose_for_host(&[]).unwrap();
        assert!(cases.len() > 8);
        assert!(cases.iter().all(|case| case.new.is_none()));
    }

    #[test]
    fn names_are_unique_and_fit_a_session_name() {
        let mut names: Vec<_> = all().map(|case| case.name).collect();
        assert!(names.iter().all(|name| name.len() < 40), "{names:?}");
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn cases_are_chosen_by_subject() {
        let choose = |names: &str, without: &str| {
            let words = |text: &str| -> Vec<String> {
                text.split_whitespace().map(str::to_string).collect()
            };
            choose(&words(names), &words(without))
                .map(|cases| cases.iter().map(|case| case.name).collect::<Vec<_>>())
        };
        assert_eq!(choose("content.basic", "").unwrap(), ["content.basic"]);
        assert!(choose("seals", "").unwrap().len() > 2);
        assert!(!choose("seals", "seals.late")
            .unwrap()
            .contains(&"seals.late"));
        assert!(choose("seal", "").is_err());
        assert!(choose("", "seal").is_err());
        assert!(choose("", "").unwrap().contains(&"content.basic"));
        assert!(!choose("", "").unwrap().contains(&"content.large"));
    }
}
