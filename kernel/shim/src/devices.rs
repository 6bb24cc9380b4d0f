//! Which devices a v2 control group may use: the rules of v1's `devices.allow` and `devices.deny` as a program for the kernel, since v2 has no such
//! files. The program is assembled by hand; it is a run of comparisons.

use crate::sys;
use crate::wire::Write;
use nix::errno::Errno;
use std::os::fd::{AsFd, BorrowedFd};

const ALLOW: &str = "devices.allow";
const DENY: &str = "devices.deny";

/// Whether a write is a rule of v1's rather than a file of v2.
#[must_use]
pub fn is_rule(write: &Write) -> bool {
    [ALLOW, DENY].contains(&write.file.as_str())
}

/// Holds a v2 group, and what is made in it, to rules; the last that fits decides, as with v1. Other programs of the group stay.
pub fn hold(group: BorrowedFd<'_>, rules: &[&Write]) -> nix::Result<()> {
    let code = assemble(rules).ok_or(Errno::EINVAL)?;
    let program = sys::load_device_program(&code)?;
    sys::attach_device_program(group, program.as_fd())
}

/// The kernel's `struct bpf_insn`: operation, registers (source in the upper half), offset, value.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    operation: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

// What is compared, by register. The program begins with its question in register 1.
const ANSWER: u8 = 0;
const QUESTION: u8 = 1;
const SCRATCH: u8 = 1;
const ACCESS: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const LOAD_WORD: u8 = 0x61;
const COPY: u8 = 0xbc;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const SET: u8 = 0xb7;
const EXIT: u8 = 0x95;
const SKIP_IF_VALUE: u8 = 0x15;
const SKIP_UNLESS_VALUE: u8 = 0x55;
const SKIP_UNLESS_REGISTER: u8 = 0x5d;

/// Making, reading and writing: the whole of [`ACCESS`].
const EVERYTHING: i32 = 7;

fn step(operation: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    Instruction { operation, registers: from << 4 | to, offset, value }
}

/// A rule; what is `None` fits everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

/// `a`, or `c 1:3 rwm` with `b` for block devices and `*` for any number.
fn parse(write: &Write) -> Option<Rule> {
    let allow = write.file == ALLOW;
    let mut words = write.value.split(' ');
    let kind = match words.next()? {
        "a" => None,
        "b" => Some(1),
        "c" => Some(2),
        _ => return None,
    };
    let any = Rule { allow, kind, major: None, minor: None, access: EVERYTHING };
    let Some(numbers) = words.next() else { return kind.is_none().then_some(any) };
    let (major, minor) = numbers.split_once(':')?;
    let number = |text: &str| match text {
        "*" => Some(None),
        text => text.parse::<u32>().ok().and_then(|number| i32::try_from(number).ok()).map(Some),
    };
    let letter = |letter: char| match letter {
        'm' => Some(1),
        'r' => Some(2),
        'w' => Some(4),
        _ => None,
    };
    let access = words.next()?.chars().try_fold(0, |sum, one| Some(sum | letter(one)?))?;
    words.next().is_none().then_some(Rule { major: number(major)?, minor: number(minor)?, access, ..any })
}

/// The program, or nothing where a rule cannot be read.
fn assemble(rules: &[&Write]) -> Option<Vec<Instruction>> {
    let rules = rules.iter().map(|write| parse(write)).collect::<Option<Vec<_>>>()?;
    let mut code = vec![
        // The question: kind in the lower and access in the upper half of a word, then the numbers.
        step(LOAD_WORD, ACCESS, QUESTION, 0, 0),
        step(COPY, KIND, ACCESS, 0, 0),
        step(AND, KIND, 0, 0, 0xffff),
        step(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        step(LOAD_WORD, MAJOR, QUESTION, 4, 0),
        step(LOAD_WORD, MINOR, QUESTION, 8, 0),
    ];
    let mut otherwise = true;
    for rule in rules.iter().rev() {
        let block = block(rule);
        if block.is_empty() {
            // It fits everything: what came before it counts no more.
            otherwise = rule.allow;
            break;
        }
        code.extend(block);
    }
    code.extend([step(SET, ANSWER, 0, 0, i32::from(otherwise)), step(EXIT, 0, 0, 0, 0)]);
    Some(code)
}

/// Comparisons that skip the answer unless all hold; none for a rule that fits everything.
fn block(rule: &Rule) -> Vec<Instruction> {
    let mut code: Vec<Instruction> = [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)]
        .iter()
        .filter_map(|(register, value)| value.map(|value| step(SKIP_UNLESS_VALUE, *register, 0, 0, value)))
        .collect();
    if rule.access != EVERYTHING {
        code.extend([step(COPY, SCRATCH, ACCESS, 0, 0), step(AND, SCRATCH, 0, 0, rule.access)]);
        // Allowed is what asks for nothing else, denied what asks for any of it.
        code.push(match rule.allow {
            true => step(SKIP_UNLESS_REGISTER, SCRATCH, ACCESS, 0, 0),
            false => step(SKIP_IF_VALUE, SCRATCH, 0, 0, 0),
        });
    }
    if code.is_empty() {
        return code;
    }
    code.extend([step(SET, ANSWER, 0, 0, i32::from(rule.allow)), step(EXIT, 0, 0, 0, 0)]);
    let len = i16::try_from(code.len()).unwrap_or(i16::MAX);
    for (at, one) in (1..).zip(&mut code) {
        if [SKIP_IF_VALUE, SKIP_UNLESS_VALUE, SKIP_UNLESS_REGISTER].contains(&one.operation) {
            one.offset = len - at;
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: &str, value: &str) -> Write {
        Write { file: file.into(), value: value.into() }
    }

    /// What the kernel would answer.
    fn answer(code: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> i32 {
        let mut registers = [0; 6];
        let mut at = 0;
        loop {
            let one = code[at];
            let (to, from) = (usize::from(one.registers & 15), usize::from(one.registers >> 4));
            at += 1;
            let mut skip = |holds: bool| at += if holds { usize::try_from(one.offset).unwrap() } else { 0 };
            match one.operation {
                LOAD_WORD => registers[to] = [access << 16 | kind, major, minor][one.offset as usize / 4],
                COPY => registers[to] = registers[from],
                AND => registers[to] &= one.value,
                SHIFT_RIGHT => registers[to] >>= one.value,
                SET => registers[to] = one.value,
                SKIP_IF_VALUE => skip(registers[to] == one.value),
                SKIP_UNLESS_VALUE => skip(registers[to] != one.value),
                SKIP_UNLESS_REGISTER => skip(registers[to] != registers[from]),
                EXIT => return registers[0],
                other => panic!("operation {other:#x}"),
            }
        }
    }

    #[test]
    fn the_last_rule_that_fits_decides() {
        let rules = [
            write(ALLOW, "c 9:9 rwm"),
            write(DENY, "a"),
            write(ALLOW, "c 1:3 rwm"),
            write(ALLOW, "c 136:* rwm"),
            write(ALLOW, "b *:* m"),
            write(ALLOW, "c 10:200 rw"),
            write(DENY, "c 136:7 w"),
        ];
        let code = assemble(&rules.iter().collect::<Vec<_>>()).unwrap();
        const BLOCK: i32 = 1;
        const CHARACTER: i32 = 2;
        const MAKE: i32 = 1;
        const READ: i32 = 2;
        const WRITE: i32 = 4;
        for (kind, access, major, minor, want) in [
            (CHARACTER, READ | WRITE, 1, 3, 1),
            (CHARACTER, MAKE, 1, 3, 1),
            (BLOCK, READ, 1, 3, 0),
            (CHARACTER, READ, 1, 11, 0),
            (CHARACTER, READ, 136, 0, 1),
            (CHARACTER, READ, 136, 7, 1),
            (CHARACTER, READ | WRITE, 136, 7, 0),
            (BLOCK, MAKE, 8, 0, 1),
            (BLOCK, MAKE | READ, 8, 0, 0),
            (CHARACTER, READ | WRITE, 10, 200, 1),
            (CHARACTER, MAKE, 10, 200, 0),
            // Before everything was denied, it was allowed.
            (CHARACTER, READ, 9, 9, 0),
        ] {
            assert_eq!(answer(&code, kind, access, major, minor), want, "{kind} {access} {major}:{minor}");
        }
        let rules = [write(DENY, "c 195:1 rwm")];
        let code = assemble(&rules.iter().collect::<Vec<_>>()).unwrap();
        let asked =
            [(195, 0), (195, 1), (1, 1)].map(|(major, minor)| answer(&code, CHARACTER, READ, major, minor));
        assert_eq!(asked, [1, 0, 1], "without a first word everything else is allowed");
    }

    #[test]
    fn a_program_in_bytes() {
        let rules = [write(DENY, "a"), write(ALLOW, "c 1:3 rw")];
        let rules: Vec<_> = rules.iter().collect();
        let seen: Vec<_> = assemble(&rules)
            .unwrap()
            .into_iter()
            .map(|i| (i.operation, i.registers, i.offset, i.value))
            .collect();
        let want = [
            (0x61, 0x12, 0, 0),
            (0xbc, 0x23, 0, 0),
            (0x54, 0x03, 0, 0xffff),
            (0x74, 0x02, 0, 16),
            (0x61, 0x14, 4, 0),
            (0x61, 0x15, 8, 0),
            (0x55, 0x03, 7, 2),
            (0x55, 0x04, 6, 1),
            (0x55, 0x05, 5, 3),
            (0xbc, 0x21, 0, 0),
            (0x54, 0x01, 0, 6),
            (0x5d, 0x21, 2, 0),
            (0xb7, 0x00, 0, 1),
            (0x95, 0x00, 0, 0),
            (0xb7, 0x00, 0, 0),
            (0x95, 0x00, 0, 0),
        ];
        assert_eq!(seen, want);
    }

    #[test]
    fn rules_that_cannot_be_read_make_no_program() {
        for rule in [
            "",
            "x",
            "c",
            "c 1 rwm",
            "c 1:3",
            "c 1:3 rwx",
            "c -1:3 r",
            "c 4294967295:3 r",
            "c 1:3 r w",
            "a 1:3 r w",
        ] {
            assert_eq!(assemble(&[&write(ALLOW, rule)]), None, "{rule:?}");
        }
    }
}
