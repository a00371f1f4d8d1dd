// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::{
    super::{
        image::tests::{
            x86,
            TEXT, //
        },
        room::Area,
        system::{
            File,
            HugePages, //
        },
    },
    *,
};

const CONFIG: &str = "CONFIG_KEXEC_HANDOVER=y\nCONFIG_LIVEUPDATE=y\n";
const LINE: &str = "kho=on liveupdate=on hugepages=8";

/// From one MiB on, some of them.
fn area(start: u64, len: u64) -> Area {
    Area {
        start: start << 20,
        len: len << 20,
    }
}

fn system() -> System {
    let file = |compatible: &str, id| File {
        compatible: compatible.into(),
        id,
        bytes: 4096,
    };
    System {
        machine: "x86_64".into(),
        page_shift: 12,
        kho: Some("kho-v4".into()),
        luo: Some("luo-v5".into()),
        scratch: Some(vec![area(1000, 66), area(2000, 40)]),
        files: vec![file("memfd-v2", 1), file("rs-memfd-v1", 2)],
        huge_pages: vec![HugePages {
            size: 2 << 20,
            preserved: 3,
            pool: 8,
        }],
    }
}

fn module(name: &str, formats: &[&str], needs: &[&str]) -> Module {
    let all = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Module {
        path: format!("/m/{name}.ko").into(),
        name: name.into(),
        release: "7.3.9-x".into(),
        formats: all(formats),
        needs: all(needs),
    }
}

fn modules() -> Vec<Module> {
    let formats = ["memfd-v2", "rs-memfd-v1"];
    vec![
        module("luo_rs", &[], &[]),
        module("luo_memfd", &formats, &["luo_rs", "x"]),
    ]
}

/// The verdict once something was changed.
#[derive(Default)]
struct Try<'a> {
    system: Option<System>,
    image: Option<Image>,
    config: Option<&'a str>,
    line: Option<&'a str>,
    initrd: u64,
    modules: Option<Vec<Module>>,
}

fn image() -> Image {
    let text = [TEXT, b"hugetlb-pools-v1\0"].concat();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, x86(&text, CONFIG)).unwrap();
    Image::read(&path).unwrap()
}

fn verdict(try_: Try<'_>) -> Verdict {
    let config = Config::parse(try_.config.unwrap_or(CONFIG));
    let next = Next {
        image: &try_.image.unwrap_or_else(image),
        config: Some(&config),
        cmdline: Cmdline(try_.line.unwrap_or(LINE)),
        initrd: try_.initrd,
        modules: &try_.modules.unwrap_or_else(modules),
    };
    judge(&try_.system.unwrap_or_else(system), &next)
}

#[test]
fn everything_survives_if_nothing_is_wrong() {
    let verdict = verdict(Try::default());
    assert_eq!(
        (&verdict.problems[..], &verdict.warnings[..]),
        (&[][..], &[][..])
    );
    assert!(verdict.good && verdict.files.iter().all(|file| file.survives));
    assert_eq!(verdict.files[0].because, "luo_memfd");
    assert_eq!(verdict.pools[0].then, 8);
}

#[test]
fn each_problem_loses_all_files_and_has_its_own_remedy() {
    let other = |change: fn(&mut System)| {
        let mut system = system();
        change(&mut system);
        Some(system)
    };
    let tries = [
        (
            Try {
                system: other(|s| s.machine = "aarch64".into()),
                ..Default::default()
            },
            "is for x86_64",
        ),
        (
            Try {
                system: other(|s| s.kho = Some("kho-v3".into())),
                ..Default::default()
            },
            "writes kho-v3",
        ),
        (
            Try {
                system: other(|s| s.luo = Some("luo-v6".into())),
                ..Default::default()
            },
            "writes luo-v6",
        ),
        (
            Try {
                system: other(|s| s.scratch = Some(vec![area(1000, 60)])),
                ..Default::default()
            },
            "do not fit",
        ),
        (
            Try {
                initrd: 41 << 20,
                ..Default::default()
            },
            "do not fit",
        ),
        (
            Try {
                config: Some("CONFIG_LIVEUPDATE=y"),
                ..Default::default()
            },
            "has no KHO",
        ),
        (
            Try {
                config: Some("CONFIG_KEXEC_HANDOVER=y"),
                ..Default::default()
            },
            "has no LUO",
        ),
        (
            Try {
                line: Some("liveupdate=on hugepages=8"),
                ..Default::default()
            },
            "kho is off",
        ),
        (
            Try {
                line: Some("kho=on liveupdate=on hugepages=8 liveupdate=0"),
                ..Default::default()
            },
            "liveupdate is off",
        ),
    ];
    for (try_, part) in tries {
        let verdict = verdict(try_);
        assert!(!verdict.good);
        let [problem] = &verdict.problems[..] else {
            panic!("{part}: {:?}", verdict.problems);
        };
        assert!(
            problem.what.contains(part) && !problem.remedy.is_empty(),
            "{problem:?}"
        );
        assert!(verdict.files.iter().all(|file| !file.survives));
    }
    let mut running = system();
    running.files[0].compatible = "rs-vfio-pci-v1".into();
    let devices = verdict(Try {
        system: Some(running),
        ..Default::default()
    });
    assert!(devices.problems[0].what.contains("devices go on running"));
    let mut running = system();
    running.files[0].compatible = "rs-iommufd-v1".into();
    let iommus = verdict(Try {
        system: Some(running),
        ..Default::default()
    });
    assert!(iommus.problems[0].what.contains("switch off IOMMUs"));
    let config = format!("{CONFIG}CONFIG_ARM64_64K_PAGES=y\n");
    let pages = verdict(Try {
        config: Some(&config),
        ..Default::default()
    });
    assert!(pages.problems[0].what.contains("pages of 64.0 KiB"));
}

#[test]
fn a_file_without_a_reader_is_lost_alone() {
    let old = vec![
        module("luo_rs", &[], &[]),
        module("luo_memfd", &["memfd-v2"], &["luo_rs"]),
    ];
    let lost = verdict(Try {
        modules: Some(old),
        ..Default::default()
    });
    assert!(!lost.good && lost.problems.is_empty());
    assert_eq!(
        lost.files.iter().map(|f| f.survives).collect::<Vec<_>>(),
        [true, false]
    );

    let mut wrong = modules();
    wrong[1].release = "7.3.4".into();
    let lost = verdict(Try {
        modules: Some(wrong),
        ..Default::default()
    });
    assert!(lost.files[1].because.contains("is for 7.3.4"));

    let lost = verdict(Try {
        modules: Some(modules().split_off(1)),
        ..Default::default()
    });
    assert!(lost.files[1].because.contains("needs the module luo_rs"));

    let config = format!("{CONFIG}CONFIG_LIVEUPDATE_MEMFD=y\n");
    let own = verdict(Try {
        config: Some(&config),
        modules: Some(vec![]),
        ..Default::default()
    });
    assert_eq!(own.files[0].because, "the kernel itself");
    assert!(own.files[0].survives && !own.files[1].survives);
}

#[test]
fn the_pool_is_foretold() {
    let line = |line| Try {
        line: Some(line),
        ..Default::default()
    };
    let without = verdict(line("kho=on liveupdate=on"));
    assert_eq!((without.good, without.pools[0].then), (true, 3));
    assert!(without.warnings[0].remedy.contains("hugepages=8"));
    let mut image = image();
    image.counts_huge_pages = false;
    let twice = verdict(Try {
        image: Some(image),
        ..Default::default()
    });
    assert_eq!(twice.pools[0].then, 11);
    assert!(twice.warnings[0].remedy.contains("3 less"));
}
