// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The manual of the runner.

/// What `--help` prints.
pub(super) const HELP: &str = "\
Runs commands in a virtual machine, with a live update of its kernel between them.

usage: selftests/vm/run [OPTION]... [STAGE OPTION]... --stage CMD [[STAGE OPTION]... --stage CMD]...

A stage is a kernel and a command. In each, init mounts what a test needs, loads the modules, loads
the next stage's kernel with kexec_file_load(2), and runs CMD with `sh -c` as root. If CMD exits 0,
the kernel jumps into the next stage's. Init waits for CMD alone: processes it leaves behind live on
and keep what they hold. The machine is switched off after the last stage, or the first that fails.

Options of the run:
  --arch x86_64|arm64     architecture (x86_64)
  --variant plain|debug   which lab kernel; debug has KASAN, lockdep and the like (plain)
  --mem SIZE              memory (3G)
  --smp N                 CPUs (2)
  --append STR            add to the kernel command line of every stage
  --qemu STR              more arguments for QEMU
  --icount                count instructions: the guest's clocks run at one nanosecond for each;
                          one CPU
  --file SRC:DST          a file or directory of the host, in every stage, with its mode
  --timeout S             for each stage, boot included (120, debug 600)
  --no-modules            load no modules in any stage
  --host CMD              run on the host beside the machine, with LU_QMP (QEMU's control socket),
                          LU_LOG (console), LU_MARKS (what init reports, JSON) and LU_STATE
                          (/state) in its environment; it is ended with the machine
  --keep                  keep the work directory and say where it is

Options of a stage, before its --stage:
  --stage-kernel IMG      another kernel image; modules next to it are used with it
  --stage-modules LIST    modules by name or path, in this order, with commas; or none
  --stage-append STR      add to the kernel command line of this stage
  --no-update             switch off after this stage; the next one is a cold boot

In the machine:
  LU_STAGE, LU_STAGES     number of this stage, from 1, and of all
  /state                  a directory of the host that lasts over all stages
  lu-reboot               jumps at once; if the kernel refuses, prints why and returns the errno
  lu-mark NAME            puts a mark on the host's timeline
  The programs of build/ARCH/bin come first in the PATH, busybox after them.

Exit status: 0, or that of the first stage that failed:
  what CMD returned (124-127 as 1), or 128 + the signal that ended it
  1     CMD was happy but the kernel was not: WARN, BUG, lockdep, KASAN, a new taint ...
  124   no end within --timeout
  125   the machine was lost, or gave no result
  126   the kernel refused the live update
  127   something could not be set up, in the machine or on the host

The console goes to standard output, the verdict to standard error.

Examples:
  One boot, one command:
    selftests/vm/run --stage 'uname -a; lsmod'
  A file's contents go from kernel to kernel:
    selftests/vm/run --stage 'date > /state/before' --stage 'cat /state/before; uname -v'
  Into another build of the kernel, without modules there:
    selftests/vm/run --stage true --stage-kernel build/x86_64-other/kernel.img \\
        --stage-modules none --stage 'cat /proc/version'
  Your own program, ten updates in a row:
    selftests/vm/run --file ./prog:/bin/prog $(for i in 1 2 3 4 5 6 7 8 9 10; do
        echo --stage prog; done) --stage 'prog verify'
  An update that is refused, and a second attempt:
    selftests/vm/run --stage 'prog break; lu-reboot && exit 1; prog mend' --stage 'prog verify'
  arm64 under every checker, with a GDB stub:
    selftests/vm/run --arch arm64 --variant debug --qemu -s --stage 'dmesg | tail'
  A shell on the machine's QEMU from the host:
    selftests/vm/run --host 'sleep 5; echo quit | socat - unix:$LU_QMP' --stage 'sleep 60'
";
